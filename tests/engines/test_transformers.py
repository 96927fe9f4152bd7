"""transformers with compressed-tensors, as an engine."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from slmquant.engines.common.contract import OpenOptions
from slmquant.engines.transformers import ENGINE
from slmquant.errors import ModelError, UnavailableError
from slmquant.formats import compressed_tensors
from tests.formats.checkpoints import EVEN, rounded, tensors
from tests.formats.gguf_models import export

pytestmark = pytest.mark.engine

OPTIONS = OpenOptions(threads=1, context=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    return compressed_tensors.FORMAT.write(export(rounded("W4A16g16", **EVEN)), tmp_path / "model").path


def test_the_status_names_both_packages() -> None:
    status = ENGINE.status()

    assert status.version is not None
    assert status.version.startswith("transformers ")
    assert status.usable == ("compressed-tensors" in status.version)


def test_without_the_package_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmquant.engines.transformers._PACKAGE", "no-such-package")

    status = ENGINE.status()

    assert not status.usable
    assert status.reason == "no-such-package is not installed; pip install 'slmquant[no-such-package]'"
    with pytest.raises(UnavailableError, match="is not installed"):
        ENGINE.open(folder, OPTIONS)


@pytest.mark.parametrize("damage", ["truncated", "missing tensor", "no config", "no folder"])
def test_damage_is_named(folder: Path, damage: str) -> None:
    file = folder / "model.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "missing tensor":
        stored = tensors(folder)
        del stored["model.layers.0.mlp.up_proj.weight_scale"]
        save_file(stored, file, metadata={"format": "pt"})
    elif damage == "no config":
        (folder / "config.json").unlink()
    else:
        folder = folder / "elsewhere"

    with pytest.raises(ModelError, match="export again"):
        ENGINE.open(folder, OPTIONS)
