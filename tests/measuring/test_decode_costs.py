"""Files of each type are timed in turns, once, and noise that all files share does not change what types cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import AutoConfig, LlamaForCausalLM
from typer.testing import CliRunner

from slmquant.cli import app
from slmquant.engine_bench.jobs import EngineJob, EngineResult, Settings
from slmquant.engines.common.contract import EngineStatus
from slmquant.engines.llamacpp import LlamaCpp
from slmquant.errors import ModelError, RefusedError, UnavailableError
from slmquant.measuring import decode_costs as module
from slmquant.measuring.decode_costs import decode_costs, files_to_time, ratio
from slmquant.progress import Progress, Silent
from slmquant.store.record import ItemOutcome
from tests.runs.made_up import make_data, make_model, write_text

pytestmark = pytest.mark.usefixtures("known_relations", "known_tokenizers")

SECONDS_OF_A_BYTE = 1e-9


class Timer:
    """Stands for llama.cpp: a token takes a time for each byte of a file, times the noise of its round."""

    def __init__(self, status: str = "ok") -> None:
        self.calls, self.status = 0, status

    def __call__(self, jobs: Sequence[EngineJob], settings: Settings, progress: Progress) -> tuple[EngineResult, ...]:
        del progress
        self.calls += 1
        noise = np.random.default_rng(3).uniform(0.5, 2.0, settings.rounds)
        return tuple(self._result(job, noise) for job in jobs)

    def _result(self, job: EngineJob, noise: NDArray[np.float64]) -> EngineResult:
        seconds = job.artifact.stat().st_size * SECONDS_OF_A_BYTE
        items = tuple(
            ItemOutcome(
                task="engine@0",
                item=str(turn),
                values={f"step_{i}_s": seconds * one * slowed for i, slowed in enumerate((7.0, 1.0, 9.0))},
            )
            for turn, one in enumerate(noise)
        )
        return EngineResult(job, self.status, "it crashed", "made up", (), items, ())  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    path = make_model(tmp_path)
    config = AutoConfig.from_pretrained(path)
    config.hidden_size, config.intermediate_size = 64, 256
    LlamaForCausalLM(config).save_pretrained(path)
    return str(path)


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Timer:
    made = Timer()
    monkeypatch.setattr(module, "run_engines", made)
    monkeypatch.setattr(LlamaCpp, "status", lambda _: EngineStatus(True, "made up"))
    return made


def test_types_cost_what_their_files_take(model: str, timer: Timer) -> None:
    found = decode_costs(model, "rtn", "fast", Silent())

    assert found.seconds["Q5_0"] / found.seconds["Q8_0"] == pytest.approx(22 / 34, rel=0.25)  # keys take bytes, too
    assert found.seconds["IQ4_NL"] < found.seconds["Q5_0"] < found.seconds["Q8_0"]
    assert found.error < 0.05
    assert "made up" in found.conditions


def test_types_are_timed_once(model: str, timer: Timer) -> None:
    first = decode_costs(model, "rtn", "fast", Silent())
    calls = timer.calls

    assert decode_costs(model, "rtn", "fast", Silent()) == first
    assert timer.calls == calls


def test_a_file_that_does_not_run_is_told(model: str, timer: Timer) -> None:
    timer.status = "failed"
    with pytest.raises(ModelError, match="it crashed"):
        decode_costs(model, "rtn", "fast", Silent())


def test_without_llama_cpp_it_is_said_how_to_get_it(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = EngineStatus(False, reason="pip install it")
    monkeypatch.setattr(LlamaCpp, "status", lambda _: absent)
    with pytest.raises(UnavailableError, match="pip install it"):
        decode_costs(model, "rtn", "fast", Silent())


def test_files_have_one_type_each_wherever_it_fits() -> None:
    types = {"a": ["Q5_0", "Q8_0"], "b": ["Q5_0", "Q6_K", "Q8_0"]}
    tables = files_to_time(types)

    assert tables[:3] == [
        {"a": "Q8_0", "b": "Q8_0"}, {"a": "Q5_0", "b": "Q5_0"}, {"a": "Q8_0", "b": "Q6_K"},
    ]  # fmt: skip
    assert len(tables) == 6
    assert all(table[name] in types[name] for table in tables for name in types)


def test_a_round_that_was_disturbed_does_not_count() -> None:
    assert ratio([1.0, 1.0, 3.0, 1.0, 1.0], [2.0, 2.0, 6.0, 9.0, 2.0]) == 2.0


def test_the_command_prints_the_front_and_refuses_what_is_too_fast(model: str, timer: Timer, tmp_path: Path) -> None:
    write_text(make_data(tmp_path), "wikitext2_train", 2, 200)
    words = ["mixture", model, "--data", str(tmp_path / "data"), "--corpus", "wikitext2_train", "--samples", "4"]
    words += ["--seq-len", "16", "--max-bytes", "200kB", "-o", str(tmp_path / "mix.json"), "--min-tokens-per-second"]
    found = CliRunner().invoke(app, [*words, "5000"])

    assert found.exit_code == 0, found.output
    assert "none is better in all three" in " ".join(found.stdout.split())
    assert "tokens/s (made up" in found.stdout
    refused = CliRunner().invoke(app, [*words, "1e9", "--overwrite"])
    assert isinstance(refused.exception, RefusedError)
    assert "the fastest types of all weights decode" in str(refused.exception)
