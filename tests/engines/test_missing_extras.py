"""Where an optional package is not installed, each engine and each format says in a line what to install."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from slmquant import engines, formats
from slmquant.artifact import Artifact
from slmquant.engines.common.contract import OpenOptions
from slmquant.errors import SlmquantError, UnavailableError
from tests.formats.gguf_models import export, quantized

PACKAGES = {
    "llamacpp": ("cyllama",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "transformers": ("compressed_tensors",),
    "vllm": ("vllm",),
}
WRITERS = {
    "onnx": ("onnx", "onnx_ir", "onnxruntime", "onnxruntime_genai"),
    "openvino": ("openvino",),
    "compressed_tensors": ("compressed_tensors",),
}
NEEDS_NOTHING = ("native", "gguf", "gptq", "awq")


def block(packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `packages` look as if nobody had installed them."""
    for module in [name for name in sys.modules if name.partition(".")[0] in packages]:
        monkeypatch.setitem(sys.modules, module, None)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    find = importlib.metadata.Distribution.from_name

    def from_name(name: str) -> importlib.metadata.Distribution:
        if name.replace("-", "_") in packages:
            raise PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", from_name)


@pytest.mark.parametrize("engine", PACKAGES)
def test_an_engine_says_what_to_install(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block(PACKAGES[engine], monkeypatch)
    found = engines.load(engine)

    status = found.status()

    assert not status.usable and status.reason is not None
    assert "pip install" in status.reason and "\n" not in status.reason
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnavailableError, match="pip install"):
        found.open(tmp_path, OpenOptions(1, 16))


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_says_what_to_install(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block(WRITERS[name], monkeypatch)

    with pytest.raises(SlmquantError, match="pip install") as told:
        formats.load(name).write(made(), tmp_path / "out")

    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NEEDS_NOTHING)
def test_other_formats_need_no_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block(tuple({package for names in (*PACKAGES.values(), *WRITERS.values()) for package in names}), monkeypatch)

    formats.load(name).write(made(), tmp_path / f"out{formats.load(name).suffix}")

    assert (tmp_path / f"out{formats.load(name).suffix}").exists()


def test_every_engine_and_format_is_looked_at() -> None:
    assert set(PACKAGES) == {name for name in engines.names() if engines.load(name).extra is not None}
    assert {*WRITERS, *NEEDS_NOTHING} == set(formats.names())


def made() -> Artifact:
    return export(quantized("llama", "rtn", "W4A16g32"))
