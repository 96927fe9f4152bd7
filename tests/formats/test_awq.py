"""The layout of AWQ checkpoints, taken apart as it is defined, and by a converter of another project."""

import json
from pathlib import Path

import pytest
import torch

from slmquant.formats import awq
from tests.formats.checkpoints import EVEN, rounded, tensors
from tests.formats.gguf_models import export

NAME = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("scheme", ["W4A16g16", "W4A16g32-asym"])
def test_it_is_laid_out_as_defined(tmp_path: Path, scheme: str) -> None:
    quantized = rounded(scheme, **EVEN)
    stored = tensors(awq.FORMAT.write(export(quantized), tmp_path / "model").path)
    codes, zeros, scales = (stored[f"{NAME}.{part}"] for part in ("qweight", "qzeros", "scales"))
    weight = quantized.weights[NAME]

    W = torch.empty(64, 96)
    for o in range(64):
        shift = 4 * [0, 2, 4, 6, 1, 3, 5, 7].index(o % 8)
        for i in range(96):
            g = i // weight.group_size
            code, zero = (int(words[row, o // 8]) >> shift & 15 for words, row in ((codes, i), (zeros, g)))
            W[o, i] = scales[g, o].float() * (code - zero)

    assert torch.equal(W, weight.dequantize())
    assert (codes.shape, zeros.shape, scales.dtype) == ((96, 8), (96 // weight.group_size, 8), torch.float16)


@pytest.mark.parametrize("scheme", ["W4A16g16", "W4A16g32-asym"])
def test_the_converter_of_compressed_tensors_reads_the_same_numbers(tmp_path: Path, scheme: str) -> None:
    convert = pytest.importorskip("compressed_tensors.entrypoints.convert.converters.autoawq")
    from compressed_tensors.compressors import BaseCompressor

    quantized = rounded(scheme, **EVEN)
    folder = awq.FORMAT.write(export(quantized), tmp_path / "model").path
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    converter = convert.AutoAWQConverter.from_autoawq_config(settings, targets=("re:.*proj$",))
    config = converter.update_config(None)
    (linears,) = config.config_groups.values()

    converted = converter.process(tensors(folder))

    parts = {part.removeprefix(f"{NAME}."): value for part, value in converted.items() if part.startswith(NAME)}
    parts["weight_scale"] = parts["weight_scale"].float()
    read = BaseCompressor.get_value_from_registry("pack-quantized").decompress(parts, linears)["weight"]
    assert torch.equal(read, quantized.weights[NAME].dequantize())


def test_linears_left_out_are_named(tmp_path: Path) -> None:
    folder = awq.FORMAT.write(export(rounded("W4A16g8")), tmp_path / "model", otherwise="bf16").path

    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    kept = [f"model.layers.{layer}.self_attn.{side}_proj" for layer in (0, 1) for side in "kv"]
    assert settings["modules_to_not_convert"] == [*kept, "lm_head"]
