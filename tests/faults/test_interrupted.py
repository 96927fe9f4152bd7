"""Ctrl-C and SIGTERM stop a bench cleanly and say how to go on, and the same command goes on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slmquant.store import Store
from tests.faults.bench import Command, as_it_is, start
from tests.faults.campaign import outcome
from tests.runs.made_up import make_data, make_model

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="commands are forked, as those of the campaign"),
]

OPTIONS = (
    "--methods rtn,gptq --schemes W4A16g16 --tasks wikitext2:2,arc_easy:3 --dtype float32 "
    "--corpus wikitext2_train --samples 2 --seq-len 32"
)


def test_an_interrupted_bench_goes_on_where_it_stopped(tmp_path: Path) -> None:
    words = ["bench", str(make_model(tmp_path)), "--data", str(make_data(tmp_path)), *shlex.split(OPTIONS)]
    words += ["-o", str(tmp_path / "report"), "--store"]
    store = tmp_path / "s.sqlite"

    def bench(into: Path, cache: str = "cache", prepare: Callable[[], object] | None = as_it_is) -> Command:
        environment = os.environ | {"SLMQUANT_CACHE": str(tmp_path / cache), "OMP_NUM_THREADS": "1"}
        return start([*words, str(into)], environment, tmp_path / f"said-{time.monotonic_ns()}", prepare)

    def interrupted(command: Command, number: signal.Signals) -> tuple[int, str]:
        os.killpg(command.pid, number)  # as a terminal does
        return command.ended()

    whole = bench(tmp_path / "whole.sqlite", "another cache").ended()
    assert whole[0] == 0, whole
    beginning = bench(store, prepare=None)  # a new interpreter, perhaps before Python has begun with it
    time.sleep(1)
    assert interrupted(beginning, signal.SIGINT)[0] in (130, -signal.SIGINT)
    for until, number, done in (("1/3", signal.SIGINT, 1), ("2/3", signal.SIGTERM, 2)):
        command = bench(store)
        command.says(until)
        code, said = interrupted(command, number)
        assert code == 130, said
        assert f"interrupted: {done} of 3 cells done" in said and "Traceback" not in said
        assert f"go on with\n  {shlex.join(['slmquant', *words, str(store)])}" in said
        with Store(store, read_only=True) as opened:
            assert len(opened.records()) == done
    code, said = bench(store).ended()

    assert code == 0 and said.count("done before") == 2
    assert outcome(store) == outcome(tmp_path / "whole.sqlite")
