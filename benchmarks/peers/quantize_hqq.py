"""HQQ on every linear of the blocks, with its library's own `Quantizer`; no calibration.

Its zero points are real numbers in 16 bits, and it has no symmetric codes. Groups run along the inputs (`axis=1`),
as in the other libraries.
"""

from __future__ import annotations

import torch
from exchange import Stopwatch, deliver, request
from hqq.core.quantize import Quantizer
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main() -> None:
    asked = request(__doc__)
    if asked.symmetric:
        raise SystemExit("HQQ has no symmetric codes; use an -asym scheme")
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    head = model.get_output_embeddings()
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    with Stopwatch() as watch:
        for linear in linears:
            codes, meta = Quantizer.quantize(
                linear.weight.data,
                nbits=asked.bits,
                group_size=asked.group_size or linear.in_features,
                axis=1,
                compute_dtype=torch.float32,
                device="cpu",
            )
            stored = {key: meta[key].half().float() for key in ("scale", "zero")}  # in 16 bits, as it stores them
            linear.weight.data = Quantizer.dequantize(codes, {**meta, **stored, "compute_dtype": torch.float32})
    deliver(asked, "hqq", watch, dict(model.named_parameters()))


if __name__ == "__main__":
    main()
