"""Which candidates stay in the race: those not yet shown to be worse than the leader, at any time.

Windows of text are items, and on each of them one of two candidates diverges less. If they were equally good, each
window would be a fair coin flip, so the capital of a gambler who bets on them is evidence that may be looked at after
every window (`analysis.sequential`): the probability that one of two equal candidates is ever dropped is at most 5 %,
corrected for all candidates by Holm's method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from slmquant.analysis.intervals import CONFIDENCE
from slmquant.analysis.multiple import holm
from slmquant.analysis.sequential import Evidence, evidence
from slmquant.recommendation.evidence import Observed

KEPT = 2
"""Each round keeps one of so many candidates, besides those that are nearly as good as the leader."""
NEAR = 1.05
"""Divergence, relative to the leader, up to which a candidate stays whatever its place."""


def still_racing(candidates: Sequence[Observed], confidence: float = CONFIDENCE) -> tuple[Observed, ...]:
    """The leader and every candidate that is not shown to be worse on windows that both have, best first."""
    measured = [one for one in candidates if one.windows]
    if not measured:
        return ()
    leader = min(measured, key=lambda one: (_mean(one), one.candidate.label))
    behind = {one.candidate: won(leader, one) for one in measured if one is not leader}
    p_values = {candidate: found.p_value if found.leader == 0 else 1.0 for candidate, found in behind.items()}
    out = {candidate for candidate, p in holm(p_values).items() if p <= 1 - confidence}
    return tuple(
        sorted((one for one in measured if one.candidate not in out), key=lambda one: (_mean(one), one.candidate.label))
    )


def halved(racing: Sequence[Observed]) -> tuple[Observed, ...]:
    """The better half of the racing candidates, and those that are nearly as good as the leader."""
    if not racing:
        return ()
    enough = math.ceil(len(racing) / KEPT)
    bound = NEAR * _mean(racing[0])
    return tuple(one for place, one in enumerate(racing) if place < enough or _mean(one) <= bound)


def won(first: Observed, second: Observed) -> Evidence:
    """The evidence that two differ: on how many of their common windows each diverges less."""
    texts = [text for text in first.windows if text in second.windows]
    pairs = [
        (first.windows[text][position], second.windows[text][position])
        for text in sorted(texts, key=repr)
        for position in sorted(first.windows[text])
        if position in second.windows[text]
    ]
    return evidence([float(a < b) for a, b in pairs], [float(b < a) for a, b in pairs])


def _mean(one: Observed) -> float:
    return math.inf if one.mean is None else one.mean
