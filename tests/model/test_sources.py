"""A word for a model means one thing, and where it means nothing the user hears what would."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from slmquant.errors import ModelError, SourceError, UnknownNameError
from slmquant.model.sources.catalog import KNOWN
from slmquant.model.sources.resolve import local_models, resolve


@pytest.fixture(autouse=True)
def own_cache(empty_cache: Path) -> None:
    """Nothing is here."""


def test_a_known_model_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(SourceError, match=r"run: slmquant pull stories15m$"):
        resolve("stories15m")
    with pytest.raises(SourceError, match="run: slmquant pull smollm2-135m-instruct --on-grid"):
        resolve("smollm2-135m-instruct-on-grid")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'stories15m'.*Known: gemma-3-270m"):
        resolve("storys15m")


def test_a_model_in_the_cache_is_found_by_its_name(empty_cache: Path) -> None:
    folder = empty_cache / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')

    assert resolve("mine") == folder
    assert [(m.name, m.architecture, m.provenance) for m in local_models()] == [("mine", "llama", None)]


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("source", ["./absent", "/absent/folder", "a/b/c", "~/absent"])
def test_a_path_that_is_not_there_is_named(source: str) -> None:
    with pytest.raises(SourceError, match=f"there is no folder {source}"):
        resolve(source)


def test_a_missing_or_broken_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no file .*absent\.gguf"):
        resolve(str(tmp_path / "absent.gguf"))

    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"broken\.gguf is truncated or not a GGUF file"):
        resolve(str(tmp_path / "broken.gguf"))


def test_a_single_weight_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")

    with pytest.raises(ModelError, match="is a single file; expected a folder"):
        resolve(str(tmp_path / "model.pt"))


def test_a_hub_id_without_a_hub_is_explained_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_options: object) -> str:
        raise LocalEntryNotFoundError("many\nlines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)

    with pytest.raises(SourceError, match="org/name is not in the hub cache and") as caught:
        resolve("org/name")
    assert "\n" not in str(caught.value)


def test_the_catalogue_states_every_checksum_size_and_licence() -> None:
    for model in KNOWN.values():
        assert model.licence
        assert model.parameters > 0
        digests = [file.sha256 for file in model.files] + [package.sha256 for package in model.packages]
        assert all(len(digest) == 64 for digest in digests)
        assert all(package.archive_bytes for package in model.packages)
