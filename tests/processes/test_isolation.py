"""A process of its own keeps its limits, leaves a log, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from slmquant.machine import stall
from slmquant.machine.process import Failure, Isolation, run_isolated, shorten
from slmquant.progress import Progress, Silent

LIMIT = 700_000_000


def start_sleeper(apart: bool) -> int:
    words = [sys.executable, "-c", "import time; time.sleep(600)"]
    return subprocess.Popen(words, start_new_session=apart, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid


def leave(told: Path, progress: Progress) -> int:
    """Ends, and leaves two processes of its own."""
    told.write_text(f"{start_sleeper(False)} {start_sleeper(True)}")
    return 7


def hang(told: Path, progress: Progress) -> None:
    leave(told, progress)
    progress.start("dream", None)
    time.sleep(600)


def crash(told: Path, progress: Progress) -> None:
    told.write_text(str(start_sleeper(False)))
    progress.start("dream", None)
    print("the end is near", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(600)


def hoard(step: int, progress: Progress) -> int:
    """Takes up to 3 GB in blocks of `step` bytes, and touches every page."""
    progress.start("hoard", None)
    blocks = []
    for _ in range(3_000_000_000 // step):
        blocks.append(b"x" * step)
        time.sleep(0.01)
    return sum(map(len, blocks))


def hoard_elsewhere(step: int, progress: Progress) -> int:
    """Takes it in a process that it starts."""
    progress.start("hoard", None)
    code = f"import time; blocks = [b'x' * {step} for _ in range({3_000_000_000 // step}) if time.sleep(0.01) is None]"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


def gone(told: Path) -> bool:
    """Whether all processes whose numbers a file holds have ended, within a few seconds."""
    left = [int(pid) for pid in told.read_text().split()]
    for _ in range(100):
        alive = [pid for pid in left if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not alive:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("work", [leave, hang, crash])
def test_no_process_that_it_started_survives(work: Callable[[Path, Progress], object], tmp_path: Path) -> None:
    result = run_isolated(work, tmp_path / "told", Silent(), Isolation(timeout_s=5))

    assert result == 7 or (isinstance(result, Failure) and "at 'dream'" in result.reason)
    assert gone(tmp_path / "told")


def doze(seconds: float, progress: Progress) -> str:
    progress.start("doze", None)
    time.sleep(seconds)
    return "awake"


def compute_and_doze(seconds: float, progress: Progress) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(100_000))
        time.sleep(0.05)
    return "awake"


def test_a_process_that_does_nothing_is_stopped_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "IDLE_S", 2.0)

    hung = run_isolated(doze, 600.0, Silent())
    busy = run_isolated(compute_and_doze, 4.0, Silent())

    assert isinstance(hung, Failure) and hung.status == "timeout"
    assert "used no processor time for 2 s, at 'doze'" in hung.reason
    assert busy == "awake"


def test_nothing_survives_the_parent_either(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from slmquant.machine import process; process._PRELOADED = 'json'; "
        "from tests.processes import test_isolation as t; "
        f"t.run_isolated(t.hang, Path({str(tmp_path / 'told')!r}), t.Silent())"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as driver:
        while not (tmp_path / "told").exists() or len((tmp_path / "told").read_text().split()) < 2:
            assert driver.poll() is None
            time.sleep(0.1)
        driver.kill()

    assert gone(tmp_path / "told")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of data are Linux's")
@pytest.mark.parametrize(
    ("work", "step"),
    [(hoard, 50_000_000), (hoard, 2_500_000_000), (hoard_elsewhere, 50_000_000)],
    ids=["little by little", "at once", "in a child"],
)
def test_who_takes_more_memory_than_allowed_is_out_of_memory(
    work: Callable[[int, Progress], object], step: int
) -> None:
    failure = run_isolated(work, step, Silent(), Isolation(memory_bytes=LIMIT))

    assert isinstance(failure, Failure)
    assert failure.status == "out_of_memory"
    assert "exceeded its memory limit of 700 MB" in failure.reason and "at 'hoard'" in failure.reason
    assert "cgroup" in failure.reason or "watched resident memory" in failure.reason


def compute(size: int, progress: Progress) -> float:
    import torch

    torch.set_num_threads(8)
    block = torch.ones(size, 1024)
    return float((block @ block.T).sum() / size / size)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of data are Linux's")
def test_torch_works_within_a_limit() -> None:
    assert run_isolated(compute, 2048, Silent(), Isolation(memory_bytes=LIMIT)) == 1024


def test_a_log_holds_what_was_printed_and_where_it_crashed(tmp_path: Path) -> None:
    log = tmp_path / "cell.log"
    failure = run_isolated(crash, tmp_path / "told", Silent(), Isolation(log=log))

    assert isinstance(failure, Failure) and "SIGSEGV" in failure.reason
    assert "the end is near" in log.read_text()
    assert "Fatal Python error: Segmentation fault" in log.read_text() and "in crash" in log.read_text()


def chatter(lines: int, progress: Progress) -> None:
    for number in range(lines):
        print(f"line {number:08} {'.' * 80}")


def test_of_a_long_log_the_end_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "cell.log"
    run_isolated(chatter, 50_000, Silent(), Isolation(log=log))
    shorten(log)

    assert log.stat().st_size <= 1 << 20
    assert log.read_text().startswith("...\n") and "line 00049999" in log.read_text()[-100:]


def test_without_room_for_a_log_work_goes_on(tmp_path: Path) -> None:
    assert run_isolated(leave, tmp_path / "told", Silent(), Isolation(log=tmp_path / "nowhere" / "log")) == 7


def seven(told: Path, progress: Progress) -> int:
    return 7


def test_a_process_does_not_run_the_script_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "script.py")
    (tmp_path / "script.py").write_text(f"open({str(tmp_path / 'told')!r}, 'w').close()\n")
    monkeypatch.setitem(sys.modules, "__main__", main)

    assert run_isolated(seven, tmp_path, Silent()) == 7
    assert not (tmp_path / "told").exists()
    assert sys.modules["__main__"] is main
