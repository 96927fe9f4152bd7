"""What an artifact is held against where the user names nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmquant.engine_bench import reference
from slmquant.engine_bench.jobs import EngineJob, Reference, quick_settings
from slmquant.engine_bench.parity import Windows
from slmquant.engine_bench.reference import bench_engine
from slmquant.errors import ModelError
from slmquant.machine.process import Failure

WINDOWS = Windows(tokens=((1, 2, 3),), text="made up")


@pytest.fixture(autouse=True)
def _jobs_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines measure nothing, and give their jobs back; references are made of nothing."""
    monkeypatch.setattr(reference, "fixed_windows", lambda *_: WINDOWS)
    monkeypatch.setattr(reference, "keep_reference", lambda source, *_: Reference(Path(source), WINDOWS))
    monkeypatch.setattr(reference, "describe", lambda job, _source: job)
    monkeypatch.setattr(reference, "run_engines", lambda jobs, *_: tuple(jobs))
    for name in ("m.gguf", "m.bin"):
        (tmp_path / name).touch()


def asked(tmp_path: Path, name: str, source: str | None = None) -> EngineJob:
    (job,) = bench_engine("llamacpp", [(str(tmp_path / name), source)], quick_settings())
    return job  # type: ignore[return-value]  # as the fixture has it


def test_a_gguf_file_is_held_against_itself_in_torch(tmp_path: Path) -> None:
    assert asked(tmp_path, "m.gguf").reference == Reference(tmp_path / "m.gguf", WINDOWS)
    assert asked(tmp_path, "m.gguf", "other").reference == Reference(Path("other"), WINDOWS)


def test_a_checkpoint_of_packed_weights_is_held_against_itself(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "config.json").write_text("{}")

    assert asked(tmp_path, "packed").reference == Reference(tmp_path / "packed", WINDOWS)
    assert asked(tmp_path, "dense").reference is None


def test_other_artifacts_are_held_against_nothing_and_say_so(tmp_path: Path) -> None:
    job = asked(tmp_path, "m.bin")
    assert job.reference is None and job.no_reference == "there is no reference"


def test_a_gguf_file_that_torch_cannot_read_is_still_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> Windows:
        raise ModelError("m.gguf cannot be read as a model")

    monkeypatch.setattr(reference, "keep_reference", lambda *_: Failure("timeout", "too slow"))
    slow = asked(tmp_path, "m.gguf")
    monkeypatch.setattr(reference, "fixed_windows", unreadable)
    job = asked(tmp_path, "m.gguf")

    assert (slow.reference, slow.no_reference) == (None, "too slow")
    assert (job.reference, job.no_reference) == (None, "m.gguf cannot be read as a model")
    with pytest.raises(ModelError):
        asked(tmp_path, "m.gguf", "named by the user")
