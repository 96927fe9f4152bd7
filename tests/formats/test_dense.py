"""A checkpoint read as a dense model computes what was evaluated."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from slmquant.errors import ModelError
from slmquant.formats import awq, compressed_tensors, gptq
from slmquant.formats.common.checkpoint_reader import checkpoint_of, read_model
from tests.formats.checkpoints import EVEN, rounded, tensors
from tests.formats.gguf_models import export

TOKENS = torch.arange(1, 30)[None]


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("fmt", [awq, compressed_tensors, gptq])
def test_the_dense_model_is_the_quantized_one(fmt: ModuleType, architecture: str, tmp_path: Path) -> None:
    if fmt is compressed_tensors:
        pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    quantized = rounded("W4A16g16-asym", architecture, **EVEN)
    folder = fmt.FORMAT.write(export(quantized), tmp_path / "model").path

    read = read_model(folder)
    with torch.inference_mode():
        torch.testing.assert_close(read(TOKENS).logits, quantized.model(TOKENS).logits, rtol=2e-2, atol=2e-3)
        full = rounded("W16A16", architecture, "none", **EVEN).model(TOKENS).logits
        off, far = (torch.dist(quantized.model(TOKENS).logits, other) for other in (read(TOKENS).logits, full))
    assert off < far / 20  # what is left is that scales have 16 bits


def test_what_is_missing_or_misshapen_is_named(tmp_path: Path) -> None:
    folder = gptq.FORMAT.write(export(rounded("W4A16g16", **EVEN)), tmp_path / "model").path
    whole = tensors(folder)

    save_file(
        {name: tensor for name, tensor in whole.items() if name != "model.norm.weight"}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match=r"lacks 'model.norm.weight'"):
        read_model(folder)
    save_file({**whole, "model.norm.weight": torch.ones(3)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"holds \(3,\), not \(64,\)"):
        read_model(folder)


def test_a_folder_that_rounds_activations_is_no_dense_model(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    folder = compressed_tensors.FORMAT.write(export(rounded("W8A8", **EVEN)), tmp_path / "model").path

    with pytest.raises(ModelError, match="rounds activations"):
        read_model(folder)


def test_other_folders_are_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoint_of(tmp_path) is None
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    assert checkpoint_of(tmp_path) is None
    with pytest.raises(ModelError, match="no checkpoint"):
        read_model(tmp_path)
