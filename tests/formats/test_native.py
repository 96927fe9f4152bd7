"""slmquant's own format gives back exactly what was written, or says what is wrong."""

import json
from pathlib import Path

import pytest
import torch

from slmquant.errors import ModelError, UnknownNameError
from slmquant.formats import native
from slmquant.model.computing.linear import multiply_in_
from slmquant.testing.method_contract import calibration_tokens, quantized
from tests.formats.gguf_models import export


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize(
    "scheme",
    ["W4A16g16", "W3A16g7-asym", "W8A8", "W8A8-static", "W4A16g16E8", "W16A8", "W8A16-tensor", "Q4_K_M"],
)
def test_reading_gives_back_what_was_written(tmp_path: Path, architecture: str, scheme: str) -> None:
    written = quantized("rtn", scheme, architecture)
    native.save(export(written), tmp_path / "model")

    read = native.load(tmp_path / "model").quantized

    assert read.scheme == written.scheme
    assert read.size == written.size
    for name, weight in written.weights.items():
        assert torch.equal(read.weights[name].codes, weight.codes)
        assert torch.equal(read.weights[name].dequantize(), weight.dequantize())
    with torch.no_grad():  # what is not quantized was rounded to bfloat16
        before, after = (q.model(calibration_tokens(2)).logits.log_softmax(-1) for q in (written, read))
    assert float((before.exp() * (before - after)).sum(-1).mean()) < 5e-3


def test_the_file_is_as_large_as_the_accounting_says(tmp_path: Path) -> None:
    for scheme in ("W4A16g16", "W3A16g7-asym", "W4A16g16E8"):
        written = quantized("rtn", scheme)
        tensors = native.encode(written)

        assert sum(t.numel() * t.element_size() for t in tensors.values()) == written.size.stored_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_precision_comes_back_in_whatever_it_multiplied(tmp_path: Path, dtype: torch.dtype) -> None:
    written = quantized("none", "W16A16", "gpt2")  # its linears lie transposed
    multiply_in_(written.model, dtype)
    native.save(export(written), tmp_path / "model")

    read = native.load(tmp_path / "model", dtype).quantized

    with torch.no_grad():
        before, after = (q.model(calibration_tokens(2)).logits for q in (written, read))
    torch.testing.assert_close(before, after, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("architecture", ["llama", "opt", "gpt2", "phi"])
@pytest.mark.parametrize("method", ["quarot+rtn", "lqer", "llm_int8"])
def test_what_is_done_at_run_time_comes_back(tmp_path: Path, method: str, architecture: str) -> None:
    """Rotations, rounded caches, biases that folding made, branches in 16 bits."""
    written = quantized(method, "W8A8KV8", architecture)
    native.save(export(written), tmp_path / "model")

    read = native.load(tmp_path / "model").quantized

    assert read.size == written.size
    assert read.kv_bits == written.kv_bits is not None
    assert sum(t.numel() * t.element_size() for t in native.encode(written).values()) == written.size.stored_bytes
    assert [type(entry) for entry in read.online] == [type(entry) for entry in written.online]
    with torch.no_grad():
        before, after = (q.model(calibration_tokens(2)).logits.log_softmax(-1) for q in (written, read))
    assert float((before.exp() * (before - after)).sum(-1).mean()) < 5e-3


def test_a_newer_version_is_named(tmp_path: Path) -> None:
    folder = native.save(export(quantized("rtn", "W8A8")), tmp_path / "m")
    manifest = json.loads((folder / native.MANIFEST).read_text())
    (folder / native.MANIFEST).write_text(json.dumps(manifest | {"version": 99, "a_field_of_the_future": 1}))

    with pytest.raises(ModelError, match="format version 99, this slmquant reads up to 4"):
        native.load(folder)


@pytest.mark.parametrize("damage", ["missing tensor", "no manifest"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    folder = native.save(export(quantized("rtn", "W8A8")), tmp_path / "m")
    weights = folder / "model.safetensors"
    if damage == "no manifest":
        (folder / native.MANIFEST).unlink()
    else:
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        del tensors[min(name for name in tensors if name.endswith(".codes"))]
        save_file(tensors, weights)

    with pytest.raises(ModelError, match="quantize again"):
        native.load(folder)


@pytest.mark.parametrize("scheme", ["W4A16g16E8", "W8A8", "NVFP4", "W16A16"])
def test_its_placements_account_for_the_models_size(scheme: str) -> None:
    written = quantized("none" if scheme == "W16A16" else "rtn", scheme)

    placements = native.FORMAT.place(written)

    assert all(placement.exact for placement in placements)
    assert sum(placement.stored_bytes for placement in placements) == written.size.stored_bytes
    with pytest.raises(UnknownNameError, match="unknown type 'f32'"):
        native.FORMAT.place(written, otherwise="f32")
