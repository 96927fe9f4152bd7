"""Tiny models for the formats that transformers loads."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from slmquant.calib.calibration import FreshCalibration
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import tiny

EVEN: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96}
"""Sides that are multiples of 32, those of keys and values too."""


def rounded(scheme: str, architecture: str = "llama", method: str = "rtn", **settings: Any) -> QuantizedModel:
    """A tiny model whose weights were bfloat16 before, so that what is left in 16 bits loses nothing."""
    model = tiny(architecture, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())
    return quantize_(model, method, parse(scheme), calibration)


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")
