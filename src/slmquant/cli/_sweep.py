"""What `slmquant bench` shows while it runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import psutil
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from slmquant.boundary import printable, size_text
from slmquant.cli._output import err_console, shown, tell

if TYPE_CHECKING:
    from slmquant.runs.rows import Event

_REDRAWS_PER_S = 2
"""Drawing takes processor time from the cell that is measured."""
_HELPERS = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
_THIS = psutil.Process()


class Sweep:
    """What a run has done so far.

    Attributes:
        done: Number of cells that have ended, those of an earlier run included.
        total: Number of cells of the plan.
        running: Labels of the cells that run now.
    """

    def __init__(self) -> None:
        self.done = self.total = 0
        self.running: list[str] = []
        self._statuses: Counter[str] = Counter()
        self._before = 0
        self._started = time.monotonic()

    def note(self, event: Event) -> None:
        """Take in news of the run."""
        self.done, self.total = event.done, event.total
        self.running += [spec.label for spec in event.begun]
        if event.record is None:
            return
        if event.skipped:
            self._before += 1
        else:
            self._statuses[event.record.status] += 1
        self.running = [label for label in self.running if label != event.record.spec.label]

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float | None:
        """Seconds for the other cells at the pace of this run; None before it has ended a cell."""
        ended = sum(self._statuses.values())
        return None if ended == 0 else self.elapsed_s / ended * (self.total - self.done)

    @property
    def left(self) -> str:
        """The time left, in words."""
        seconds = self.left_s
        return "time left unknown" if seconds is None else f"about {duration(seconds)} left"

    @property
    def summary(self) -> str:
        """How many cells have ended how, and which run."""
        if self.total == 0:
            return "no cell has begun"
        ended = [f"{count} {status.replace('_', ' ')}" for status, count in sorted(self._statuses.items())]
        ended += [f"{self._before} done before"] if self._before else []
        how = f" ({', '.join(ended)})" if ended else ""
        running = f"; {', '.join(self.running)} was running" if self.running else ""
        return f"{self.done} of {self.total} cells done{how}{running}"


class View:
    """Prints a line when a cell ends; shows no progress.

    Args:
        sweep: Receives the news of the run.
        quiet: Whether to print nothing.
    """

    def __init__(self, sweep: Sweep, quiet: bool = False) -> None:
        self._sweep, self._quiet = sweep, quiet

    def tell(self, event: Event) -> None:
        """Receive news of the run."""
        self._sweep.note(event)
        if not self._quiet:
            _print(event, self._sweep)

    def start(self, phase: str, total: int | None) -> None:
        """Ignore the phase."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""


class LiveView(View):
    """Also shows, below the lines, what runs now: its phase and progress, its memory, and the time left."""

    def __init__(self, sweep: Sweep, bars: _Bars) -> None:
        super().__init__(sweep)
        self._bars = bars
        self._task: TaskID | None = None

    def tell(self, event: Event) -> None:
        """Receive news of the run."""
        super().tell(event)
        if event.record is not None:
            self._clear()

    def start(self, phase: str, total: int | None) -> None:
        """Show a phase."""
        self._clear()
        self._task = self._bars.add_task(printable(phase), total=total)

    def advance(self, steps: int = 1) -> None:
        """Show that some steps are done."""
        if self._task is not None:
            self._bars.advance(self._task, steps)

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = None


class _Bars(RichProgress):
    """A bar of the current phase, below a summary of the run."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._memory, self._looked_s = 0, float("-inf")
        super().__init__(
            TextColumn("  {task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=err_console,
            transient=True,
            refresh_per_second=_REDRAWS_PER_S,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """The summary, the cells that run, and the bar."""
        sweep = self._sweep
        yield Text(f"{sweep.summary.split(';')[0]}; {duration(sweep.elapsed_s)} elapsed, {sweep.left}")
        if sweep.running:
            more = f" and {len(sweep.running) - 1} more" if len(sweep.running) > 1 else ""
            yield Text(printable(f"{sweep.running[0]}{more}, {size_text(self._rss_bytes())} of memory"))
        yield from super().get_renderables()

    def _rss_bytes(self) -> int:
        if time.monotonic() - self._looked_s > 1:
            self._memory, self._looked_s = workers_rss_bytes(), time.monotonic()
        return self._memory


@contextmanager
def live_view(sweep: Sweep, quiet: bool) -> Iterator[View]:
    """A view on stderr; without a terminal, lines alone."""
    if quiet or not (err_console.is_interactive and err_console.file.isatty()):
        yield View(sweep, quiet)
        return
    with _Bars(sweep) as bars:
        yield LiveView(sweep, bars)


def workers_rss_bytes() -> int:
    """Resident memory of all processes that this one started, except for Python's own helpers."""
    total = 0
    for process in _THIS.children(recursive=True):
        try:
            if process.ppid() != _THIS.pid or not any(helper in " ".join(process.cmdline()) for helper in _HELPERS):
                total += int(process.memory_info().rss)
        except psutil.Error:  # it has just ended
            continue
    return total


def duration(seconds: float) -> str:
    """A time as hours, minutes and seconds: `0:03:12`."""
    return str(timedelta(seconds=round(seconds)))


def _print(event: Event, sweep: Sweep) -> None:
    """Print news as one line."""
    if event.record is None:
        if event.text:
            tell(event.text)
        return
    colour = {"ok": "green", "refused": "yellow"}.get(event.record.status, "red")
    line = f"[{colour}]{event.done}/{event.total}[/{colour}] {shown(event.text)}"
    if event.record.status != "ok":
        line += shown(f" ({event.record.reason})")
    if not event.skipped and event.done < event.total:
        line += f", {sweep.left}"
    err_console.print(line, highlight=False, soft_wrap=True)
