"""Where the time of a computation goes: matrix products, attention, casts, and everything else in torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table
from torch.profiler import ProfilerActivity, profile

_KINDS = {
    "products of linears and head": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_attention_math"),
    "casts and copies": ("aten::copy_", "aten::clone", "aten::cat"),
    "soft-max, logarithms, highest logits": (
        "aten::exp", "aten::log", "aten::logsumexp", "aten::_softmax", "aten::_log_softmax", "aten::topk",
        "aten::amax", "aten::argmax", "aten::max", "aten::linalg_vecdot", "aten::gather", "aten::sub_",
    ),
}  # fmt: skip
_OTHERS = "norms, activations, residuals and the rest"


@dataclass(frozen=True)
class TimeByKind:
    """Seconds by kind of torch's operation, without what they call, and wall seconds under the profiler."""

    kinds: dict[str, float]
    wall_s: float

    def lines(self) -> list[str]:
        """A line for each kind."""
        total_s = sum(self.kinds.values())
        return [f"{kind}: {seconds / total_s:.0%}" for kind, seconds in self.kinds.items()]

    def table(self, title: str) -> Table:
        """As a table with shares."""
        table, total_s = Table(title=title), sum(self.kinds.values())
        table.add_column("spent on")
        table.add_column("s", justify="right")
        table.add_column("share", justify="right")
        for kind, seconds in self.kinds.items():
            table.add_row(kind, f"{seconds:.1f}", f"{seconds / total_s:.0%}")
        table.add_row("wall time under the profiler", f"{self.wall_s:.1f}", "")
        return table


def time_by_kind(run: Callable[[], object]) -> TimeByKind:
    """Run a function under torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        run()
        wall_s = time.perf_counter() - started
    found = dict.fromkeys((*_KINDS, _OTHERS), 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, names in _KINDS.items() if event.key in names), _OTHERS)
        found[kind] += event.self_cpu_time_total / 1e6
    return TimeByKind(found, wall_s)
