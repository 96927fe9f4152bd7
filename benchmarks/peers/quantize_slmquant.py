"""slmquant, with the same interface as its peers.

`--set method=gptq` selects the method, `--set budget=paper` the learning budget.
"""

from __future__ import annotations

import torch
from exchange import Stopwatch, deliver, request

from slmquant.calib.calibration import FreshCalibration
from slmquant.model.sources.load import load
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse


def main() -> None:
    asked = request(__doc__)
    scheme = f"W{asked.bits}A16" + (f"g{asked.group_size}" if asked.group_size else "")
    scheme += "" if asked.symmetric else "-asym"
    model = load(asked.model).model
    calibration = FreshCalibration(model, asked.calibration(), asked.dtype, Silent())
    with Stopwatch() as watch:
        quantized = quantize_(
            model,
            asked.settings["method"],
            parse(scheme),
            calibration,
            dtype=asked.dtype,
            budget="paper" if asked.settings.get("budget") == "paper" else "fast",
        )
    with torch.no_grad():
        weights = {name: weight.float() for name, weight in model.named_parameters()}
        weights |= {f"{name}.weight": codes.dequantize() for name, codes in quantized.weights.items()}
    deliver(asked, "slmquant", watch, weights)


if __name__ == "__main__":
    main()
