"""The ranking of methods in papers on models of 7B and 8B holds for small ones.

The effect is Kendall's rank correlation of the published order with that of the divergences on each window. It is 1
where the order is the same, −1 where it is reversed, and above ½ where more than three pairs of four are in order.

Published are, from worst to best: RTN, GPTQ, AWQ, OmniQuant for 4- and 3-bit weights in groups (perplexities of
LLaMA-7B, W4A16g128 and W3A16g128: Shao et al., ICLR 2024, arXiv 2308.13137, table 1); QuaRot before SpinQuant, and both
far before RTN and SmoothQuant, which the paper does not rank between them, for W4A4KV4 (Llama-3-8B: Liu et al., ICLR
2025, arXiv 2405.16406).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from slmquant.principles.common.cells import Cell, ModelCells, Text
from slmquant.principles.common.contract import Need, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.needs import need
from slmquant.principles.common.windows import Matched, PerWindow
from slmquant.store.record import Record

ORDERS: tuple[tuple[tuple[str, ...], Mapping[str, int]], ...] = (
    (
        ("W4A16g64", "W4A16g128", "W3A16g64", "W3A16g128"),
        {"rtn": 0, "gptq": 1, "awq": 2, "omniquant": 3},
    ),
    (("W4A4", "W4A4KV4"), {"rtn": 0, "smoothquant": 0, "quarot": 1, "spinquant": 2}),
)
"""(schemes, method → its published rank, the best last)."""
FEWEST = 3


def kendall(ranks: Sequence[int], losses: Sequence[float]) -> float:
    """Kendall's rank correlation of ranks, the best last, with losses; pairs of one rank are left out."""
    pairs = [(i, j) for i, j in combinations(range(len(ranks)), 2) if ranks[i] != ranks[j]]
    signs = [(1 if (ranks[i] < ranks[j]) == (losses[i] > losses[j]) else -1) for i, j in pairs]
    return sum(signs) / len(signs)


def ranked(text: Text) -> Iterable[Matched]:
    """The methods of each published order that were measured on a text, three or more of different ranks."""
    for records in text.alike():
        for schemes, order in ORDERS:
            for scheme in schemes:
                measured = {m: records[cell] for m in order if (cell := Cell(m, scheme)) in records}
                ranks = [order[method] for method in measured]
                if len(set(ranks)) >= FEWEST:
                    yield _matched(scheme, measured, ranks)


def _matched(scheme: str, measured: Mapping[str, Record], ranks: Sequence[int]) -> Matched:
    label = f"{', '.join(measured)} at {scheme}"
    return Matched(label, tuple(measured.values()), lambda losses: kendall(ranks, losses))


def lacking(model: ModelCells) -> tuple[Need, ...]:
    """Each order at the first of its schemes."""
    return tuple(need(model, [Cell(method, schemes[0]) for method in order]) for schemes, order in ORDERS)


PRINCIPLE = Principle(
    rule="The ranking of methods on models of 7B transfers to small ones.",
    source="Shao et al., ICLR 2024, arXiv 2308.13137, table 1; Liu et al., ICLR 2025, arXiv 2405.16406",
    prediction=Prediction("rank correlation of the published order with that of the divergences", "above", 0.5),
    evidence=PerWindow(ranked, lacking, "correlation"),
    if_it_holds=(Decision("note", Candidates(), "methods may be tried in their published order, the best first"),),
    if_it_fails=(Decision("note", Candidates(), "measure methods on this model; their published order says little"),),
)
