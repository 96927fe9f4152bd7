"""In what two cells differ besides model, method and scheme, and which figures that touches."""

from __future__ import annotations

from slmquant.analysis.cells import machine
from slmquant.store.record import Record

_OF_PRODUCTS = ("compute dtype", "device")
"""Change the products of linears, and so whatever is computed with them."""
_OF_THE_MACHINE = ("system", "CPU", "cores", "threads", "graphics card")
"""What `machine` lists, in its order."""
_COSTS = "seconds, memory and speeds"


def unlike(a: Record, b: Record) -> dict[str, tuple[str, str]]:
    """Compute dtype, device, engine and parts of the machine that are not the same in both: name → that of either."""
    first, second = _facts(a), _facts(b)
    return {name: (first[name], second[name]) for name in first if first[name] != second[name]}


def unlike_words(a: Record, b: Record) -> str | None:
    """One line that says in what the cells differ and what that means for which figures; None where they do not."""
    found = unlike(a, b)
    if not found:
        return None
    facts = ", ".join(f"{name} ({first} and {second})" for name, (first, second) in found.items())
    means = []
    if products := [name for name in _OF_PRODUCTS if name in found]:
        what = "accuracy, loss and divergence"
        if found.keys() == {"compute dtype"}:
            what += f", and in {_COSTS},"
        means.append(f"differences in {what} are partly those of the {' and '.join(products)}")
    if found.keys() - {"compute dtype"}:
        means.append(f"{_COSTS} are not compared")
    if "engine" in found:
        means.append("nor is anything else that was measured on an engine; sizes are")
    elif not products:
        means.append("accuracies, losses, divergences and sizes are")
    return f"A and B differ in {facts}: {'; '.join(means)}."


def _facts(record: Record) -> dict[str, str]:
    spec = record.spec
    facts = {"compute dtype": spec.compute_dtype, "device": spec.device, "engine": spec.engine or "torch"}
    here = ("none" if one is None else str(one) for one in machine(record.environment))
    return facts | dict(zip(_OF_THE_MACHINE, here, strict=True))
