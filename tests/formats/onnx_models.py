"""Tiny quantized models of shapes that ONNX Runtime's attention takes, and their export."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from slmquant.calib.calibration import FreshCalibration
from slmquant.formats.common.contract import Written
from slmquant.formats.onnx.writer import FORMAT
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import tiny
from tests.formats.gguf_models import export

_HEAD: dict[str, Any] = {"head_dim": 16}
SETTINGS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "llama": {},
        "llama-bias": {},
        "mistral": _HEAD,
        "qwen2": {},
        "qwen3": _HEAD,
        "gemma": _HEAD,
        "gemma2": _HEAD,
        "gemma3_text": _HEAD,
        "granite": {},
        "phi": {"partial_rotary_factor": 1.0},
        "phi3": {"original_max_position_embeddings": 64, "sliding_window": 8},
        "nemotron": {"partial_rotary_factor": 1.0},
    }
)
"""What ONNX Runtime wants beyond `testing.tiny`: heads of 16, every one of whose channels is rotated."""


def quantized(scheme: str, architecture: str = "llama", method: str = "rtn", **settings: Any) -> QuantizedModel:
    """Hidden size 64 and 96 in the feed-forward layers: groups of 64 have a ragged last one."""
    own = {"hidden_size": 64, "intermediate_size": 96, **SETTINGS.get(architecture, {}), **settings}
    model = tiny(architecture, **own)
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())
    return quantize_(model, method, parse(scheme), calibration)


def written(model: QuantizedModel, folder: Path, otherwise: str | None = None) -> Written:
    return FORMAT.write(export(model), folder, otherwise)
