"""The layout of GPTQ checkpoints, taken apart bit by bit as it is defined."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slmquant.formats import gptq
from tests.formats.checkpoints import EVEN, rounded, tensors
from tests.formats.gguf_models import export


def bits_at(words: list[int], position: int, bits: int) -> int:
    """The number in `bits` bits from `position` of a little-endian stream of 32-bit words."""
    return sum((words[(position + k) // 32] >> (position + k) % 32 & 1) << k for k in range(bits))


def slowly_unpacked(parts: dict[str, Tensor], bits: int, first_version: bool) -> Tensor:
    """One number at a time."""
    codes, zeros, scales = parts["qweight"].tolist(), parts["qzeros"].tolist(), parts["scales"].float()
    inputs, outputs = len(codes) * 32 // bits, scales.shape[1]
    W = torch.empty(outputs, inputs)
    for o in range(outputs):
        column = [row[o] for row in codes]
        for i in range(inputs):
            g = int(parts["g_idx"][i])
            zero = bits_at(zeros[g], o * bits, bits) + first_version
            W[o, i] = scales[g, o] * (bits_at(column, i * bits, bits) - zero)
    return W


@pytest.mark.parametrize("scheme", ["W4A16g16", "W4A16g16-asym", "W8A16g32-asym", "W3A16g8", "W2A16g16"])
def test_it_is_laid_out_as_defined(tmp_path: Path, scheme: str) -> None:
    quantized = rounded(scheme, **EVEN)
    folder = gptq.FORMAT.write(export(quantized), tmp_path / "model").path
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    name = "model.layers.1.mlp.down_proj"
    weight = quantized.weights[name]
    stored = tensors(folder)
    parts = {part: stored[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")}

    W = slowly_unpacked(parts, settings["bits"], first_version=settings["checkpoint_format"] == "gptq")

    assert torch.equal(W, weight.dequantize())
    assert parts["qweight"].shape == (96 * weight.bits // 32, 64)
    assert parts["qzeros"].shape == (96 // weight.group_size, 64 * weight.bits // 32)
    assert (parts["scales"].dtype, parts["g_idx"].dtype) == (torch.float16, torch.int32)


def test_zero_points_are_written_so_that_no_kernel_wraps_around(tmp_path: Path) -> None:
    """In the first version 0 would be stored as -1; only symmetric weights, whose zero point is 8, are written so."""
    for scheme, version in (("W4A16g16", "gptq"), ("W4A16g16-asym", "gptq_v2")):
        folder = gptq.FORMAT.write(export(rounded(scheme, **EVEN)), tmp_path / version).path

        settings = json.loads((folder / "config.json").read_text())["quantization_config"]
        assert settings["checkpoint_format"] == version
        assert settings["sym"] == (version == "gptq")
    zeros = [tensor for name, tensor in tensors(tmp_path / "gptq").items() if name.endswith("qzeros")]
    assert all((tensor == 0x77777777).all() for tensor in zeros)


def test_linears_left_out_are_named(tmp_path: Path) -> None:
    """Keys and values have 20 outputs, which are no whole words of zero points."""
    folder = gptq.FORMAT.write(export(rounded("W4A16g8")), tmp_path / "model", otherwise="bf16").path

    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    kept = [f"model.layers.{layer}.self_attn.{side}_proj" for layer in (0, 1) for side in "kv"]
    assert [pattern.replace("\\", "") for pattern in settings["dynamic"]] == [f"-:^{name}$" for name in kept]


def test_groups_in_another_order_are_read(tmp_path: Path) -> None:
    """`g_idx` of a checkpoint that was rounded in the order of activations."""
    quantized = rounded("W4A16g16", **EVEN)
    folder = gptq.FORMAT.write(export(quantized), tmp_path / "model").path
    stored = tensors(folder)
    name = "model.layers.0.mlp.up_proj"
    stored[f"{name}.g_idx"] = stored[f"{name}.g_idx"].flip(0)
    from safetensors.torch import save_file

    save_file(stored, folder / "model.safetensors")

    weight = quantized.weights[name]
    expected = weight.centred() * weight.scale.flip(1).repeat_interleave(16, dim=1)
    assert torch.equal(gptq.FORMAT.read(folder)[name], expected)
