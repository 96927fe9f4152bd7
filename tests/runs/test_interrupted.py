"""Ctrl-C and SIGTERM stop a bench cleanly, and the same command goes on; what is being stored is stored."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from slmquant.runs.plan import make_plan
from slmquant.runs.runner import run
from slmquant.store import Record, Store

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")

FIELDS = {"methods": ["rtn", "gptq"], "schemes": ["W4A16g16"], "tasks": ["wikitext2:2", "arc_easy:3"]}
CALIBRATION = {"corpus": "wikitext2_train", "num_samples": 2, "seq_len": 32}
OPTIONS = (
    "--methods rtn,gptq --schemes W4A16g16 --tasks wikitext2:2,arc_easy:3 --dtype float32 "
    "--corpus wikitext2_train --samples 2 --seq-len 32 --store s.sqlite -o report"
)


def figures(records: list[Record]) -> dict[str, dict[tuple[str, str | None], float]]:
    """Cell → its metrics, but for times and memory."""
    return {
        record.cell_id: {
            (metric.name, metric.task): metric.value
            for metric in record.metrics
            if not metric.name.startswith(("quantize_", "load_", "evaluate_"))
        }
        for record in records
    }


@pytest.mark.usefixtures("alone")
def test_an_interrupted_bench_goes_on_where_it_stopped(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan({"models": ["./model"], "dtype": "float32", "calibration": CALIBRATION, **FIELDS})
    with Store(tmp_path / "whole.sqlite") as store:
        run(plan, store, data_dir=data)
        whole = figures(store.records())
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "another cache"))
    words = ["bench", "./model", "--data", "data", *shlex.split(OPTIONS)]

    def bench(until: str | None, number: int) -> tuple[int, str]:
        """Exit code and output of a bench that receives a signal once it has printed `until`, or at its start."""
        with subprocess.Popen(
            [sys.executable, "-m", "slmquant", *words],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            said = ""
            if until is None:
                time.sleep(2)
            while until is not None and until not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            try:
                os.killpg(process.pid, number)  # as a terminal does
                said += process.communicate(timeout=60)[1]
            finally:
                process.kill()
            return process.returncode, said

    assert bench(None, signal.SIGINT)[0] in (130, -signal.SIGINT)  # perhaps before Python has begun with it
    for until, number, done in (("1/3", signal.SIGINT, 1), ("2/3", signal.SIGTERM, 2)):
        code, said = bench(until, number)
        assert code == 130, said
        assert f"interrupted: {done} of 3 cells done" in said and "Traceback" not in said
        assert f"go on with\n  {shlex.join(['slmquant', *words])}" in said
        with Store(tmp_path / "s.sqlite", read_only=True) as store:
            assert len(store.records()) == done
    ended = subprocess.run([sys.executable, "-m", "slmquant", *words], capture_output=True, text=True, check=False)

    assert ended.returncode == 0 and ended.stderr.count("done before") == 2
    with Store(tmp_path / "s.sqlite", read_only=True) as store:
        assert figures(store.records()) == whole
    assert not any("slmquant.engine_bench" in " ".join(child.cmdline()) for child in psutil.Process().children())


@pytest.mark.parametrize(("signals", "stored"), [(1, 1), (2, 0)])
def test_a_row_that_is_being_stored_is_stored_unless_one_insists(signals: int, stored: int, tmp_path: Path) -> None:
    code = f"""
import time
from slmquant.machine.clock import now
from slmquant.machine.process import Failure
from slmquant.places import Places
from slmquant.runs.rows import Decision, Rows
from slmquant.store import Store
from slmquant.interruption import install
from tests import invented

install()
put = Store.put
def slow(*arguments):
    print("writing", flush=True)
    time.sleep({5 if signals == 1 else 600})
    put(*arguments)
Store.put = slow
with Store({str(tmp_path / "s.sqlite")!r}) as store:
    rows = Rows(store, Places(), lambda event: None, 1)
    rows.put(invented.spec("rtn", "W4A8"), Failure("failed", "it did"), Decision("float32"), now())
    time.sleep(600)
"""
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        try:
            for _ in range(signals):
                process.send_signal(signal.SIGINT)
                time.sleep(0.5)
            assert process.wait(60) != 0
        finally:
            process.kill()

    with Store(tmp_path / "s.sqlite", read_only=True) as store:
        assert len(store.records()) == stored
