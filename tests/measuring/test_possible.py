"""What cannot be done is said before anything is loaded; bytes are counted before anything is made."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from slmquant.calib.calibration import NoCalibration
from slmquant.cli._app import run
from slmquant.engines.common.contract import EngineStatus
from slmquant.engines.llamacpp import LlamaCpp
from slmquant.errors import ModelError, UnavailableError, UnknownNameError
from slmquant.measuring.recommend import check_possible
from slmquant.measuring.search import sizes_of
from slmquant.measuring.sizes import SizesJob, count_sizes, stored_bytes
from slmquant.model.discovery.relations import discover
from slmquant.places import Places
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.recommendation.question import ask
from slmquant.recommendation.space import Proposal, proposals
from slmquant.schemes import parse
from slmquant.testing.tiny import tiny


def test_a_model_that_does_not_fit_into_memory_is_refused_with_what_it_needs(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))

    with pytest.raises(
        ModelError, match=r"its weights take \d+ kB of memory, and 1 kB are free; use a smaller model, or --minutes 0"
    ):
        check_possible(ask(str(model), max_bytes="60kB"))


def test_an_engine_that_is_not_here_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaCpp, "status", lambda _: EngineStatus(False, reason="cyllama is not installed"))

    with pytest.raises(UnavailableError, match="llamacpp cannot be used here: cyllama is not installed"):
        check_possible(ask(str(model), max_bytes="60kB", engine="llamacpp"))


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'smolm2'"):
        check_possible(ask("smolm2", max_bytes="60kB"))


@pytest.mark.parametrize("scheme", ["W4A16g32E8", "W8A16", "W4A16g32", "W3A16g32-asym"])
def test_bytes_of_stored_weights_are_those_of_the_quantized_model(scheme: str) -> None:
    model = tiny("llama")
    counted = stored_bytes(parse(scheme), model, discover(model))

    made = quantize_(model, "rtn", parse(scheme), NoCalibration())

    assert counted == made.size.stored_bytes


@pytest.mark.usefixtures("at_once")
def test_refusals_and_bytes_of_all_proposals_are_counted_once(model: Path) -> None:
    tried = tuple(proposals("native", 60_000))
    job = SizesJob(str(model), "native", tried, Places())

    first = count_sizes(job, Silent())
    second = count_sizes(job, Silent())

    assert first == second
    assert first.counted["W3A16g64E8"] < first.counted["W4A16g64"] < first.counted["W16A16"]
    assert first.parameters > 0


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("limit", "message"), [("1kB", "cannot be met: the smallest file of"), ("9MB", "nothing to choose")]
)
def test_bytes_that_no_file_or_every_file_has_are_refused(
    model: Path, data: Path, tmp_path: Path, limit: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "recommend",
        str(model),
        "--max-bytes",
        limit,
        "--store",
        str(tmp_path / "new.sqlite"),
        "--data",
        str(data),
    ]

    assert run(words) == 3
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("at_once")
def test_a_format_without_a_type_for_the_model_refuses_each_proposal(model: Path) -> None:
    found = sizes_of(ask(str(model), max_bytes="60kB"), "gptq", [Proposal("rtn", "W3A16g32E8")], Silent())

    assert "rtn/W3A16g32E8" in found.refused
