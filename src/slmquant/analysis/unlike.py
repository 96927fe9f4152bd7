"""Differences in dtype, device, engine and machine between two cells, and the metrics they affect."""

from __future__ import annotations

from slmquant.analysis.cells import machine
from slmquant.store.record import Record

_OF_PRODUCTS = ("compute dtype", "device")
"""Facts that change the matrix products, and so every metric computed from them."""
_OF_THE_MACHINE = ("system", "CPU", "cores", "threads", "graphics card")
"""Names of the parts of `machine`, in its order."""
_COSTS = "seconds, memory and speeds"


def unlike(a: Record, b: Record) -> dict[str, tuple[str, str]]:
    """Name → (value in A, value in B), for dtype, device, engine and machine parts that differ."""
    first, second = _facts(a), _facts(b)
    return {name: (first[name], second[name]) for name in first if first[name] != second[name]}


def unlike_words(a: Record, b: Record) -> str | None:
    """One line on how the settings of two cells differ and which metrics that affects; None if they agree."""
    differing = unlike(a, b)
    if not differing:
        return None
    facts = ", ".join(f"{name} ({first} and {second})" for name, (first, second) in differing.items())
    means = []
    if products := [name for name in _OF_PRODUCTS if name in differing]:
        what = "accuracy, loss and divergence"
        if differing.keys() == {"compute dtype"}:
            what += f", and in {_COSTS},"
        means.append(f"differences in {what} are partly due to the {' and '.join(products)}")
    if differing.keys() - {"compute dtype"}:
        means.append(f"{_COSTS} are not compared")
    if "engine" in differing:
        means.append("other metrics measured on an engine are not compared either; sizes are")
    elif not products:
        means.append("accuracies, losses, divergences and sizes are")
    return f"A and B differ in {facts}: {'; '.join(means)}."


def _facts(record: Record) -> dict[str, str]:
    spec = record.spec
    facts = {"compute dtype": spec.compute_dtype, "device": spec.device, "engine": spec.engine or "torch"}
    here = ("none" if one is None else str(one) for one in machine(record.environment))
    return facts | dict(zip(_OF_THE_MACHINE, here, strict=True))
