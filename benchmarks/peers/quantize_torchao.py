"""Rounding to nearest with torchao's `IntxWeightOnlyConfig`, which has a path for the CPU; no calibration.

`--set algorithm=affine` rounds to nearest; `hqq_scale_only` searches scales as HQQ does, for symmetric codes only.
(`Int4WeightOnlyConfig` has no layout for the CPU.)
"""

from __future__ import annotations

import torch
from exchange import Stopwatch, deliver, request
from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerAxis, PerGroup, quantize_
from transformers import AutoModelForCausalLM


def main() -> None:
    asked = request(__doc__)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    head = model.get_output_embeddings()
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{asked.bits}"),
        granularity=PerGroup(asked.group_size) if asked.group_size else PerAxis(0),
        mapping_type=MappingType.SYMMETRIC if asked.symmetric else MappingType.ASYMMETRIC,
        intx_choose_qparams_algorithm=asked.settings.get("algorithm", "affine"),
    )
    with Stopwatch() as watch:
        quantize_(model, config, lambda module, _name: isinstance(module, torch.nn.Linear) and module is not head)
    weights = {
        name: weight.dequantize()
        if hasattr(weight, "dequantize") and type(weight) is not torch.nn.Parameter
        else weight
        for name, weight in model.named_parameters()
    }
    deliver(asked, "torchao", watch, weights)


if __name__ == "__main__":
    main()
