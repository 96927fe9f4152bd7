"""GPTQ or AWQ through llm-compressor's `oneshot`, on the given calibration ids.

`--set algorithm=gptq` (its defaults: damp 0.01, static act order) or `awq` (20 grid points, duo scaling). AWQ of this
version pins memory, which needs an accelerator; without one, this script skips that step, which changes no number.
"""

from __future__ import annotations

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from datasets import Dataset
from exchange import Request, Stopwatch, deliver, request
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoModelForCausalLM

if not torch.accelerator.is_available():
    IntermediatesCache.pin_memory = lambda *_arguments: None


def recipe(asked: Request) -> list[object]:
    """The modifiers that `algorithm` names."""
    weights = QuantizationArgs(
        num_bits=asked.bits,
        type="int",
        symmetric=asked.symmetric,
        strategy="group" if asked.group_size else "channel",
        group_size=asked.group_size,
    )
    numbers = {
        "config_groups": {"linears": QuantizationScheme(targets=["Linear"], weights=weights)},
        "ignore": ["lm_head"],
    }
    algorithm = asked.settings.get("algorithm", "gptq")
    if algorithm == "gptq":
        return [GPTQModifier(**numbers)]
    if algorithm == "awq":
        return [AWQModifier(), QuantizationModifier(**numbers)]
    raise SystemExit(f"unknown algorithm {algorithm!r}; expected gptq or awq")


@torch.no_grad()
def rounded_(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters of the model, with quantized weights as they are after dequantization."""
    weights = {name: weight for name, weight in model.named_parameters() if name.endswith((".weight", ".bias"))}
    for name, module in model.named_modules():
        if (scheme := getattr(module, "quantization_scheme", None)) is not None:
            weights[f"{name}.weight"] = fake_quantize(
                x=module.weight,
                scale=module.weight_scale,
                zero_point=getattr(module, "weight_zero_point", None),
                args=scheme.weights,
            )
    return weights


def main() -> None:
    asked = request(__doc__)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=asked.dtype)
    ids = asked.calibration()
    rows = [{"input_ids": window, "attention_mask": [1] * len(window)} for window in ids.tolist()]
    with Stopwatch() as watch:
        oneshot(
            model=model,
            dataset=Dataset.from_list(rows),
            recipe=recipe(asked),
            num_calibration_samples=len(ids),
            max_seq_length=ids.shape[1],
        )
    deliver(asked, "llmcompressor", watch, rounded_(model))


if __name__ == "__main__":
    main()
