"""Cells that are run again agree with their rows; what differs, and what cannot be repeated, is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slmquant.progress import Silent
from slmquant.runs.repetition import candidates, compare
from slmquant.store.record import Metric
from tests.invented import record

PLAN = """
models: [model]
methods: [rtn, gptq]
schemes: [W4A16g16]
tasks: ["wikitext2:2"]
dtype: float32
calibration: {corpus: wikitext2_train, num_samples: 4, seq_len: 32}
"""


def metric(name: str, value: float, unit: str = "nats", task: str | None = "wikitext2:8") -> Metric:
    return Metric(name=name, value=value, unit=unit, higher_is_better=None, task=task)


def test_times_and_memory_are_not_compared_and_the_largest_difference_is_known() -> None:
    noise = metric("evaluate_s", 3.0, "s", None), metric("quantize_peak_rss_bytes", 5.0, "bytes", None)
    stored = record("rtn", "W8A8", (metric("kl_mean", 0.1), metric("bpw", 8.0, "bits", None), *noise))
    again = compare(stored, (metric("kl_mean", 0.1001), metric("bpw", 8.0, "bits", None)))

    assert again.compared == 2
    assert again.unequal == {"kl_mean of wikitext2:8": (0.1, 0.1001)}
    assert again.largest == pytest.approx(0.001, rel=0.01)


def test_a_metric_that_is_absent_is_no_agreement() -> None:
    assert compare(record("rtn", "W8A8", (metric("kl_mean", 0.1),)), ()).largest == float("inf")


def test_what_cannot_be_repeated_is_told_apart() -> None:
    on_engine = record("rtn", "W8A8").spec.model_copy(update={"engine": "llamacpp", "tasks": ()})
    records = [
        record("rtn", "W8A8", status="refused", reason="no"),
        record("rtn", "W8A8", cell=on_engine),
        record("rtn", "W4A8"),
    ]
    found = candidates(records, None, Silent())

    assert found.same == ()
    reasons = [reason for _, reason in found.apart]
    assert reasons[:2] == ["it is refused", "it was timed on an engine, and times are never the same twice"]
    assert "invented-135m" in reasons[2]


@pytest.mark.slow
def test_the_same_plan_gives_the_same_metrics_in_fresh_processes_with_one_thread_and_two(
    model: Path, data: Path, tmp_path: Path
) -> None:
    def slmquant(threads: int, *words: str) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "SLMQUANT_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "slmquant", *words, "--data", str(data), "--json"]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        return ended.stdout

    assert model.is_dir()
    (tmp_path / "plan.yaml").write_text(PLAN.replace("[model]", "[./model]"))
    slmquant(1, "bench", "--plan", "plan.yaml", "--store", "store.sqlite", "--report", "report")
    repeated = json.loads(slmquant(2, "repeat", "store.sqlite", "--sample", "9"))["repeated"]

    assert len(repeated) == 3
    assert all(one["failure"] is None and one["compared"] > 5 for one in repeated)
    assert all(one["largest_difference"] <= 0.001 for one in repeated)
