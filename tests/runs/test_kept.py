"""A model that was put aside comes back with the very same outputs."""

from pathlib import Path

import pytest
import torch

from slmquant.artifact import Artifact
from slmquant.calib.calibration import FreshCalibration
from slmquant.errors import CacheError, RefusedError
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.runs.model_snapshot import load_snapshot, save_snapshot
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import tiny
from tests.formats.gguf_models import tokenizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("method", "scheme"),
    [
        ("rtn", "W4A16g16E8"),
        ("smoothquant", "W8A8"),
        ("quarot", "W4A8KV8"),
        ("lqer", "W4A16g16"),
        ("llm_int8", "W8A8"),
        ("norm_tweaking", "W4A16g16"),
        ("awq", "W4A16g16"),
        ("omniquant", "W4A8"),
        ("spinquant", "W8A8"),
        ("rtn", "W16A8"),
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_it_answers_bit_for_bit_as_before(
    tmp_path: Path, method: str, scheme: str, architecture: str, dtype: torch.dtype
) -> None:
    model = tiny(architecture)
    calibration = FreshCalibration(model, calibration_tokens(), dtype, Silent())
    try:
        before = quantize_(model, method, parse(scheme), calibration, dtype=dtype)
    except RefusedError:
        pytest.skip("this method does not do this model")
    save_snapshot(Artifact(before, tokenizer(), "tiny", "0" * 64), tmp_path / "kept")

    with pytest.raises(CacheError):
        load_snapshot(tmp_path / "nowhere", before.dtype, "cpu")
    after = load_snapshot(tmp_path / "kept", before.dtype, "cpu").quantized

    with torch.no_grad():
        asked = calibration_tokens(2)
        assert torch.equal(before.model.eval()(asked).logits, after.model(asked).logits)
