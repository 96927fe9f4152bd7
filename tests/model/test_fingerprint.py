"""A fingerprint names the weights, whatever files they lie in, and finds damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slmquant.errors import ModelError
from slmquant.model.sources.fingerprint import compute_fingerprint, fingerprint


@pytest.fixture(autouse=True)
def own_cache(empty_cache: Path) -> None:
    """Every test starts with nothing remembered."""


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"b": torch.randn(3, 5, generator=generator), "a": torch.randn(4, generator=generator)}


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_shards_do_not_matter(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole", weights())
    split = tmp_path / "split"
    split.mkdir()
    for number, (name, tensor) in enumerate(weights().items()):
        save_file({name: tensor}, split / f"model-{number}.safetensors", metadata={"format": "pt"})
    names = ", ".join(f'"{name}": "model-{number}.safetensors"' for number, name in enumerate(weights()))
    (split / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{names}}}}}')

    assert fingerprint(whole) == fingerprint(split)


def test_one_changed_bit_a_name_a_shape_or_a_dtype_matters(tmp_path: Path) -> None:
    changed = weights()
    changed["a"].view(torch.int32)[0] ^= 1
    variants = [
        weights(),
        changed,
        {"b": weights()["b"], "c": weights()["a"]},
        {"b": weights()["b"].reshape(5, 3), "a": weights()["a"]},
        {"b": weights()["b"], "a": weights()["a"].view(torch.int32)},
    ]

    found = {fingerprint(saved(tmp_path / str(number), tensors)) for number, tensors in enumerate(variants)}

    assert len(found) == len(variants)


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", weights())
    before = fingerprint(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["a"] += 1
    save_file(tensors, folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(1, 1))

    assert fingerprint(folder) == compute_fingerprint(folder) != before


def test_the_second_call_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "x", weights())
    first = fingerprint(folder)
    monkeypatch.setattr("slmquant.model.sources.fingerprint._digest", lambda _tensors: pytest.fail("read again"))

    assert fingerprint(folder) == first


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = saved(tmp_path / "x", weights()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])

    with pytest.raises(ModelError, match="truncated"):
        fingerprint(file.parent)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "x", weights()) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[8] = ord("[")
    file.write_bytes(content)

    with pytest.raises(ModelError, match="damaged header"):
        fingerprint(file.parent)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-7.safetensors"}}')

    with pytest.raises(ModelError, match=r"lacks model-7\.safetensors"):
        fingerprint(tmp_path)


def test_pickled_weights_are_refused_with_a_remedy(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*convert them to safetensors"):
        fingerprint(tmp_path)
