"""AutoRound through its own entry point, block by block with signed gradients, on the given calibration ids.

`--set iters=200` sets its iterations (200 is its default), `--set batch_size=8` its batch size. By default it decides
itself whether to compile the blocks with torch.compile; `--set compile=no` or `compile=yes` overrides that.
"""

from __future__ import annotations

import torch
from auto_round import AutoRound
from exchange import Stopwatch, deliver, request
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    asked = request(__doc__)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=asked.dtype)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    ids = asked.calibration()
    batch_size = int(asked.settings.get("batch_size", 8))
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(batch_size)]
    with Stopwatch() as watch:
        quantizer = AutoRound(
            model,
            tokenizer,
            scheme=f"W{asked.bits}A16",
            group_size=asked.group_size or -1,
            sym=asked.symmetric,
            dataset=batches,
            iters=int(asked.settings.get("iters", 200)),
            seqlen=ids.shape[1],
            nsamples=len(ids),
            batch_size=batch_size,
            device_map="cpu",
            enable_torch_compile={"yes": True, "no": False}.get(asked.settings.get("compile", "")),
            seed=0,
        )
        quantized, _ = quantizer.quantize()
    deliver(asked, "auto-round", watch, dict(quantized.named_parameters()))


if __name__ == "__main__":
    main()
