"""Losses of blocks that were not rounded to every type, from blocks that were.

Rounding by GPTQ with searched scales takes most of the time. Rounding to nearest is cheap, and so is GPTQ with scales
that cover ranges, in one type `a`. With `n` and `q` their predicted divergences, the loss of a linear in type `k` is

    loss(k) ≈ q(a) · n(k) / n(a) · r(k)

`n` knows the distribution of a weight's numbers, `q` how much GPTQ can compensate for them. What is left, `r`, is what
searching scales is worth in a type. It is known in blocks that were rounded in full, differs little between linears of
a kind, and is interpolated between blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

Losses = Mapping[str, Mapping[str, float]]
"""Linear → type → divergence that it causes, in nats per token."""


def kind_of(linear: str) -> str:
    """`v_proj` of `model.layers.0.self_attn.v_proj`."""
    return linear.rpartition(".")[2]


def alike(types: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Linears of the same kind that may get the same types."""
    kinds: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, several in types.items():
        kinds.setdefault((kind_of(name), tuple(several)), []).append(name)
    return list(kinds.values())


def representatives(types: Mapping[str, Iterable[str]], blocks: Sequence[str], every: int) -> set[str]:
    """Linears of every so many blocks, from the first on and with the last, among the blocks with linears alike.

    Args:
        types: Linear → the types that it may get.
        blocks: The model's blocks, first to last.
        every: 1 for all linears.
    """
    chosen: set[str] = set()
    for names in alike(types):
        places = sorted({place_of(name, blocks) for name in names})
        taken = {*places[::every], places[-1]}
        chosen |= {name for name in names if place_of(name, blocks) in taken}
    return chosen


def place_of(linear: str, blocks: Sequence[str]) -> int:
    """Index of the block that a linear lies in; −1 if it lies in none."""
    return next((index for index, block in enumerate(blocks) if linear.startswith(f"{block}.")), -1)


def extended(known: Losses, rough: Losses, blocks: Sequence[str]) -> tuple[dict[str, dict[str, float]], float | None]:
    """The losses of all linears, and the relative error of those that are not known.

    The error is that of known losses between others, predicted by the known ones next to them; those are further away
    than they will be. It is None if all are known, or too few to tell.

    Args:
        known: Linears that were rounded to every type; those of `representatives` are among them.
        rough: `q(a) · n(k) / n(a)` of every linear.
        blocks: The model's blocks, first to last.
    """
    found = {name: dict(losses) for name, losses in known.items()}
    misses: list[float] = []
    for names in alike(rough):
        for kind in rough[names[0]]:
            ratios = _ratios({name: (known[name][kind], rough[name][kind]) for name in names if name in known}, blocks)
            for name in names:
                if name not in known:
                    loss = rough[name][kind] * math.exp(_between(ratios, place_of(name, blocks)))
                    found.setdefault(name, {})[kind] = loss
            misses += _misses(ratios)
    return found, math.sqrt(fmean(miss**2 for miss in misses)) if misses and len(found) > len(known) else None


def _ratios(pairs: Mapping[str, tuple[float, float]], blocks: Sequence[str]) -> dict[int, float]:
    """Block → mean logarithm of known over rough loss."""
    several: dict[int, list[float]] = {}
    for name, (loss, guess) in pairs.items():
        if loss > 0 and guess > 0:
            several.setdefault(place_of(name, blocks), []).append(math.log(loss / guess))
    return {place: fmean(logs) for place, logs in sorted(several.items())} or {0: 0.0}


def _between(ratios: Mapping[int, float], place: int) -> float:
    return float(np.interp(place, list(ratios), list(ratios.values())))


def _misses(ratios: Mapping[int, float]) -> list[float]:
    """By how much the ratio of each block differs from that between its neighbours."""
    return [
        _between({other: ratio for other, ratio in ratios.items() if other != place}, place) - ratios[place]
        for place in list(ratios)[1:-1]
    ]
