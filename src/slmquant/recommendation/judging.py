"""Which candidates meet the constraints of a question, which miss them and by how much, and which cannot be judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from slmquant.recommendation.candidate import Candidate
from slmquant.recommendation.evidence import Evidence, Observed
from slmquant.recommendation.keeping import Kept, kept_shares
from slmquant.recommendation.question import QUALITY, Constraints, Name, Question
from slmquant.recommendation.ranking import Ranking, rank

AT_LEAST: tuple[Name, ...] = ("min_tokens_per_second", "keep")


@dataclass(frozen=True)
class Judged:
    """A candidate beside the constraints.

    Attributes:
        observed: The candidate.
        values: What it has, of what is asked and known.
        asked: The constraints.
    """

    observed: Observed
    values: Mapping[Name, float]
    asked: Mapping[Name, float]

    @property
    def lacks(self) -> tuple[Name, ...]:
        """Constraints of which nothing is known."""
        return tuple(name for name in self.asked if name not in self.values)

    @property
    def misses(self) -> tuple[Name, ...]:
        """Constraints that it does not meet."""
        return tuple(name for name in self.values if self.excess(name) > 0)

    @property
    def fits(self) -> bool:
        """Whether it is known to meet all."""
        return not self.lacks and not self.misses

    def excess(self, name: Name) -> float:
        """Logarithm of how far beyond a constraint it is; 0 or less if it meets it."""
        limit, value = self.asked[name], self.values[name]
        over, under = (limit, value) if name in AT_LEAST else (value, limit)
        if over <= 0:
            return -math.inf
        return math.log(over / under) if under > 0 else math.inf

    @property
    def furthest(self) -> float:
        """The excess of the constraint that it misses most."""
        return max(self.excess(name) for name in self.values)


@dataclass(frozen=True)
class Judgement:
    """All candidates beside the constraints.

    Attributes:
        judged: The candidates that were measured.
        problems: Those that could not be measured.
        ranking: Those that meet the constraints of resources, compared.
        kept: What each keeps of full precision's accuracy.
    """

    judged: tuple[Judged, ...]
    problems: tuple[Observed, ...]
    ranking: Ranking
    kept: Mapping[Candidate, Kept]


def judge(question: Question, evidence: Evidence) -> Judgement:
    """Put every candidate beside the constraints."""
    everyone = [*([evidence.reference] if evidence.reference is not None else []), *evidence.candidates]
    problems = tuple(one for one in everyone if one.problem is not None)
    left = [one for one in everyone if one.problem is None]
    asked = question.constraints
    resources = asked.model_copy(update=dict.fromkeys(QUALITY))
    held = [one for one in left if not Judged(one, _resources(one, question), resources.asked).misses]
    ranking = rank(held)
    kept = kept_shares(left, evidence.reference)
    judged = tuple(Judged(one, _values(one, question, ranking, kept, asked), asked.asked) for one in left)
    return Judgement(judged, problems, ranking, kept)


def size_of(one: Observed, engine: str | None) -> int | None:
    """Bytes of the engine's file or, without an engine, of the stored weights."""
    return one.stored_bytes if engine is None else one.file_bytes


def mean_divergence(one: Observed, ranking: Ranking) -> float | None:
    """Its divergence where it was compared with others, else on its own windows; None if it was not measured."""
    if one.candidate.is_reference:
        return 0.0
    compared = ranking.divergence(one) if one.windows else None
    if compared is not None:
        return compared
    return one.mean


def _resources(one: Observed, question: Question) -> dict[Name, float]:
    known: dict[Name, float | None] = {
        "max_bytes": size_of(one, question.engine),
        "min_tokens_per_second": one.tokens_per_second,
        "max_memory": one.memory_bytes,
    }
    return {n: value for n, value in known.items() if value is not None and n in question.constraints.asked}


def _values(
    one: Observed, question: Question, ranking: Ranking, kept: Mapping[Candidate, Kept], asked: Constraints
) -> dict[Name, float]:
    values = _resources(one, question)
    divergence = mean_divergence(one, ranking)
    if asked.max_divergence is not None and divergence is not None:
        values["max_divergence"] = divergence
    if asked.keep is not None and one.candidate.is_reference:
        values["keep"] = 1.0
    elif asked.keep is not None and one.candidate in kept:
        values["keep"] = kept[one.candidate].share
    return values
