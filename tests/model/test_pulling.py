"""What is pulled is verified, whole, and says where it came from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from slmquant.errors import ModelError, SourceError, UnknownNameError
from slmquant.model.sources import pull as pulling
from slmquant.model.sources.catalog import KNOWN, KnownModel, SourceFile
from slmquant.model.sources.load import identify, load
from slmquant.model.sources.offgrid import OffGridReport
from slmquant.model.sources.provenance import read_provenance
from slmquant.model.sources.pull import pull
from tests import tiny_llama2c


def source_file(path: Path) -> SourceFile:
    return SourceFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


@pytest.fixture
def files(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of two known models: `tiny`, and `tiny-grid`, said to lie on a grid."""
    folder = tmp_path / "files"
    folder.mkdir()
    sources = tuple(source_file(path) for path in tiny_llama2c.write(folder))
    for name, on_grid in (("tiny", False), ("tiny-grid", True)):
        precision = "GGUF Q4_1" if on_grid else "float32"
        model = KnownModel(name, "llama", 10_000, "MIT", "tests", "llama2c", precision, sources, on_grid)
        monkeypatch.setitem(KNOWN, name, model)
    return folder


def test_a_pulled_model_loads_and_says_where_it_came_from(files: Path) -> None:
    folder = pull("tiny", local=files)

    card = load("tiny").card
    provenance = read_provenance(folder)
    assert (card.provenance, card.licence) == ("original, float32", "MIT")
    assert provenance is not None
    assert provenance.source == "file:tiny.bin, tok.bin"
    assert provenance.files["tiny.bin"] == hashlib.sha256((files / "tiny.bin").read_bytes()).hexdigest()
    assert provenance.rescaling is None
    assert str(files) not in provenance.model_dump_json()


def test_pulling_again_does_nothing_unless_forced(files: Path) -> None:
    folder = pull("tiny", local=files)
    written = (folder / "model.safetensors").stat().st_mtime_ns

    assert pull("tiny", local=Path("/nowhere")) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert (pull("tiny", local=files, force=True) / "model.safetensors").stat().st_mtime_ns != written


def test_the_same_files_give_the_same_weights(files: Path) -> None:
    pull("tiny", local=files)
    first = identify("tiny").sha256
    pull("tiny", local=files, force=True)

    assert identify("tiny").sha256 == first


def test_weights_on_a_grid_are_moved_off_it_and_the_change_is_kept(files: Path) -> None:
    pull("tiny", local=files)
    provenance = read_provenance(pull("tiny-grid", local=files))

    assert provenance is not None
    assert provenance.description == "dequantized from GGUF Q4_1, off-grid"
    assert provenance.rescaling is not None
    assert provenance.rescaling.channels > 0
    assert 0 < provenance.rescaling.max_abs_logit_change < 1e-3
    assert identify("tiny-grid").sha256 != identify("tiny").sha256


def test_kept_on_its_grid_it_has_another_name_and_says_so(files: Path) -> None:
    pull("tiny", local=files)
    folder = pull("tiny-grid", on_grid=True, local=files)

    assert folder.name == "tiny-grid-on-grid"
    assert identify("tiny-grid-on-grid").card.provenance == "dequantized from GGUF Q4_1, on-grid"
    assert identify("tiny-grid-on-grid").sha256 == identify("tiny").sha256


def test_on_grid_makes_no_sense_for_exact_weights(files: Path) -> None:
    with pytest.raises(SourceError, match="tiny is published in float32, not on a grid"):
        pull("tiny", on_grid=True, local=files)


def test_a_changed_file_is_refused_with_both_checksums(files: Path, empty_cache: Path) -> None:
    (files / "tok.bin").write_bytes(b"other")

    with pytest.raises(SourceError, match=r"checksum of tok\.bin is \w{64}, expected \w{64}"):
        pull("tiny", local=files)
    assert list((empty_cache / "models").iterdir()) == []


def test_a_missing_file_is_named(files: Path) -> None:
    (files / "tok.bin").unlink()

    with pytest.raises(SourceError, match=r"has no tok\.bin, which tiny is made from"):
        pull("tiny", local=files)


def test_an_interruption_leaves_nothing(files: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_model: object, seed: int) -> OffGridReport:
        raise KeyboardInterrupt

    monkeypatch.setattr(pulling, "move_off_grid", interrupted)

    with pytest.raises(KeyboardInterrupt):
        pull("tiny-grid", local=files)
    assert list((empty_cache / "models").iterdir()) == []


def test_what_a_killed_process_left_is_removed_once_it_is_a_day_old(files: Path, empty_cache: Path) -> None:
    old, young = empty_cache / "models" / ".tiny.files.old", empty_cache / "models" / ".tiny.files.young"
    for leftover in (old, young):
        leftover.mkdir(parents=True)
    os.utime(old, times=(0, 0))

    pull("tiny", local=files)

    assert not old.exists()
    assert young.exists()


def test_files_that_no_package_carries_are_found_beside_the_data(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLMQUANT_DATA", raising=False)
    with pytest.raises(SourceError, match="slmquant pull tiny --from DIR"):
        pull("tiny")

    (tmp_path / "models").mkdir()
    files.rename(tmp_path / "models" / "tiny")
    monkeypatch.setenv("SLMQUANT_DATA", str(tmp_path / "data"))
    pull("tiny")
    assert load("tiny").card.architecture == "llama"


def test_weights_that_changed_since_they_were_written_are_refused(files: Path) -> None:
    folder = pull("tiny", local=files)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)

    with pytest.raises(ModelError, match=r"have fingerprint \w{16}, not \w{16} as written"):
        identify("tiny")


def test_an_unknown_model_is_answered_with_the_nearest(files: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean"):
        pull("tinny")
