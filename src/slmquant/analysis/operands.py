"""What each operand that a scheme rounds contributes to the divergence, from a full factorial of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slmquant.analysis.intervals import CONFIDENCE
from slmquant.analysis.shapley import effect_weights, shapley_weights
from slmquant.analysis.window_means import Array, Figure, WindowMeans, logs, ratio
from slmquant.store.experiments import Factorial, Operand, Sample

MARGIN = 0.1
"""Share of the divergence that is too small to matter."""
MAIN = 0.5
"""Share beyond which an operand outweighs all others together."""

Verdict = Literal["main cause", "matters", "negligible", "cannot tell"]
"""By the interval of an operand's share: above `MAIN`; above `MARGIN`; below `MARGIN`; or it contains `MARGIN`."""


@dataclass(frozen=True)
class OperandShare:
    """What one operand contributes.

    Attributes:
        operand: The operand.
        alone: Divergence with only this operand rounded, in nats per token.
        given_back: Divergence with all operands rounded but this one.
        share: Shapley value over the divergence of all operands.
        verdict: What the interval of the share shows.
    """

    operand: Operand
    alone: Figure
    given_back: Figure
    share: Figure
    verdict: Verdict


@dataclass(frozen=True)
class Effect:
    """The factor by which rounding one operand multiplies the divergence, or by which two multiply each other's effect.

    Attributes:
        operands: One operand, or two.
        factor: The factor.
    """

    operands: tuple[Operand, ...]
    factor: Figure


@dataclass(frozen=True)
class Contributions:
    """The factorial of one scheme, evaluated.

    Attributes:
        scheme: The scheme.
        shares: What each operand contributes.
        effects: Effects on the logarithm of the divergence; empty if an operand alone causes none.
        whole: Divergence with all operands rounded, in nats per token.
        none: Divergence with none rounded: what this measurement adds of its own, or what the method changed.
        additivity: Sum over operands of the divergence of each alone, over that of all.
    """

    scheme: str
    shares: tuple[OperandShare, ...]
    effects: tuple[Effect, ...]
    whole: Figure
    none: Figure
    additivity: Figure

    @property
    def main(self) -> OperandShare | None:
        """The main cause; None if none is shown to be."""
        return next((one for one in self.shares if one.verdict == "main cause"), None)


def contributions(factorial: Factorial, samples: Sequence[Sample]) -> Contributions:
    """Evaluate a factorial.

    Intervals of shares hold for all operands of the scheme together with 95 % (Bonferroni), as each gets a verdict.

    Args:
        factorial: The measured cells.
        samples: The windows that they were measured on.
    """
    count = len(factorial.operands)
    means = WindowMeans(_texts(factorial, len(samples)), tuple(sample.positions for sample in samples))
    whole, alone = 2**count - 1, [1 << place for place in range(count)]
    return Contributions(
        scheme=factorial.scheme,
        shares=tuple(_share(operand, place, count, means) for place, operand in enumerate(factorial.operands)),
        effects=tuple(_effects(factorial.operands, means)),
        whole=_cell(means, whole),
        none=_cell(means, 0),
        additivity=means.positive(lambda x: ratio(x[alone].sum(axis=0), x[whole])),
    )


def _texts(factorial: Factorial, texts: int) -> tuple[Array, ...]:
    """For each text the divergences of every cell, in the order of `shapley`."""
    found = {frozenset(cell.rounded): cell.divergence for cell in factorial.cells}
    places = range(len(factorial.operands))
    order = [
        frozenset(factorial.operands[place] for place in places if cell >> place & 1) for cell in range(len(found))
    ]
    return tuple(np.array([found[rounded][text] for rounded in order]) for text in range(texts))


def _cell(means: WindowMeans, cell: int) -> Figure:
    return means.positive(lambda x: x[cell])


def _share(operand: Operand, place: int, count: int, means: WindowMeans) -> OperandShare:
    whole, weights = 2**count - 1, shapley_weights(count)[place]
    together = 1 - (1 - CONFIDENCE) / count
    share = means.figure(lambda x: ratio(weights @ x, x[whole] - x[0]), together)
    alone, given_back = _cell(means, 1 << place), _cell(means, whole & ~(1 << place))
    return OperandShare(operand, alone, given_back, share, verdict_of(share))


def _effects(operands: Sequence[Operand], means: WindowMeans) -> Iterator[Effect]:
    if (means.means[1:] <= 0).any():
        return
    for places, weights in effect_weights(len(operands)).items():
        yield Effect(tuple(operands[place] for place in places), _factor(means, weights))


def _factor(means: WindowMeans, weights: Array) -> Figure:
    return means.positive(lambda x: np.exp(weights @ logs(x[1:])))


def verdict_of(share: Figure) -> Verdict:
    """What the interval of a share of the divergence shows."""
    if share.exceeds(MAIN):
        return "main cause"
    if share.exceeds(MARGIN):
        return "matters"
    return "negligible" if share.is_below(MARGIN) else "cannot tell"
