"""Orders the candidates that fit: the least divergence first or, if a quality is asked for, the smallest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmquant.analysis.intervals import CONFIDENCE
from slmquant.analysis.score_intervals import DRAWS
from slmquant.recommendation.answer import Figure
from slmquant.recommendation.evidence import Observed
from slmquant.recommendation.judging import Judged, Judgement, mean_divergence, size_of
from slmquant.recommendation.question import Question
from slmquant.recommendation.ranking import Field, Ranking, best_set, rank

_Array = NDArray[np.float64]
_LIKELY = 0.05
"""Probability of being best from which a candidate may be it."""
_DIGITS = 6


@dataclass(frozen=True)
class Ordered:
    """The candidates that fit, the best first.

    Attributes:
        fitting: The candidates.
        ranking: Their comparison.
        probabilities: Probability that each is the best, in the same order; empty if nothing can be said.
        may_be_best: Those that no other is shown to be better than.
        regret: Nats by which the first is expected to be worse than the truly best; None if nothing can be said.
    """

    fitting: tuple[Judged, ...]
    ranking: Ranking
    probabilities: tuple[float | None, ...]
    may_be_best: tuple[Observed, ...]
    regret: float | None = None


def order(question: Question, judgement: Judgement) -> Ordered:
    """Order the candidates that meet every constraint and whose divergence is known."""
    fitting = [
        one for one in judgement.judged if one.fits and mean_divergence(one.observed, judgement.ranking) is not None
    ]
    if question.constraints.of_quality:
        return _by_size(question, fitting, judgement)
    ranking = rank([one.observed for one in fitting])
    fitting.sort(key=lambda one: (*_stage(one.observed, ranking), one.observed.candidate.label))
    last = ranking.stages[-1] if ranking.stages else None
    if last is None or last.drawn is None or len(fitting) == 1:
        members = () if last is None else last.members
        return Ordered(tuple(fitting), ranking, (None,) * len(fitting), members)
    shares = np.bincount(last.drawn.argmin(axis=0), minlength=len(last.members)) / last.drawn.shape[1]
    won = dict(zip((one.candidate for one in last.members), shares.tolist(), strict=True))
    first = last.drawn[last.members.index(fitting[0].observed)]
    regret = rounded(float((first - last.drawn.min(axis=0)).mean()))
    probabilities = tuple(won.get(one.observed.candidate) for one in fitting)
    return Ordered(tuple(fitting), ranking, probabilities, best_set(last), regret)


def _stage(one: Observed, ranking: Ranking) -> tuple[int, float]:
    """Sort key: those compared last come first, then the least divergence."""
    field = ranking.field_of(one)
    divergence = mean_divergence(one, ranking)
    place = len(ranking.stages) if field is None else -ranking.stages.index(field)
    return place, np.inf if divergence is None else divergence


def _by_size(question: Question, fitting: list[Judged], judgement: Judgement) -> Ordered:
    """The smallest first; a candidate is best in a draw if it has the quality there and no smaller one has."""
    sizes = {one.observed.candidate: size_of(one.observed, question.engine) for one in fitting}
    fitting.sort(
        key=lambda one: (
            sizes[one.observed.candidate] or np.inf,
            mean_divergence(one.observed, judgement.ranking) or 0.0,
            one.observed.candidate.label,
        )
    )
    reached = [has_quality(question, one.observed, judgement) for one in fitting]
    known = [draws for draws in reached if draws is not None]
    if len(known) < len(reached) or not known:
        return Ordered(
            tuple(fitting), judgement.ranking, (None,) * len(fitting), tuple(one.observed for one in fitting)
        )
    before = np.zeros_like(known[0])
    probabilities = []
    for draws in known:
        probabilities.append(float((draws & ~before).mean()))
        before |= draws
    likely = tuple(one.observed for one, p in zip(fitting, probabilities, strict=True) if p >= _LIKELY)
    return Ordered(tuple(fitting), judgement.ranking, tuple(probabilities), likely)


def has_quality(question: Question, one: Observed, judgement: Judgement) -> NDArray[np.bool_] | None:
    """Whether a candidate has the quality that is asked for, draw by draw; None if its errors are not known."""
    constraints = question.constraints
    reached: list[NDArray[np.bool_]] = []
    if one.candidate.is_reference:
        return np.ones(DRAWS, dtype=np.bool_)
    if constraints.max_divergence is not None:
        draws = drawn(one, judgement.ranking.field_of(one))
        if draws is None:
            return None
        reached.append(draws <= constraints.max_divergence)
    if constraints.keep is not None:
        reached.append(judgement.kept[one.candidate].drawn >= constraints.keep)
    return np.asarray(np.all(reached, axis=0))


def drawn(one: Observed, field: Field | None) -> _Array | None:
    """Draws of a candidate's divergence; None if there are none."""
    if field is None or field.drawn is None:
        return None
    return np.asarray(field.drawn[field.members.index(one)])


def figure(value: float, draws: _Array | None) -> Figure:
    """A value with its interval."""
    if draws is None:
        return Figure(value=rounded(value))
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Figure(value=rounded(value), low=rounded(float(low)), high=rounded(float(high)))


def rounded(value: float) -> float:
    """A number with as many digits as answers have."""
    return float(f"{value:.{_DIGITS}g}")


def labels(several: Sequence[Observed]) -> str:
    """Labels in a sentence."""
    return ", ".join(one.candidate.label for one in several)
