"""How sure a ranking is: draws of all divergences together, the probability of being best, and the best set.

Candidates are compared on the same windows, and a draw moves all of them together (`analysis.serial.series_draws`), so
what they share, such as a difficult article, cancels. The best set is that of Hsu's multiple comparisons with the best
("Simultaneous confidence intervals for all distances from the best", Annals of Statistics 9, 1981): it holds every
candidate that no other is shown to be better than. Candidate i is left out if, for some j,

    kl_i − kl_j  >  c_i · s_ij,        c_i the 95 % quantile over draws of  max_j (deviation of kl_i − kl_j) / s_ij

so with a probability of 95 % the truly best is in the set. If its members were also measured on further windows, they
are compared again on all of these; the error of the n-th comparison is 5 % / 2^n, so that all together is at most 5 %.

*Deviations*: the quantile comes from the draws instead of Dunnett's distribution, as windows are few and differ in
spread.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slmquant.analysis.intervals import CONFIDENCE
from slmquant.analysis.score_intervals import DRAWS, FEWEST_TEXT_WINDOWS
from slmquant.analysis.serial import series_draws
from slmquant.recommendation.evidence import Observed, Text

_POWER = 2.8
"""Standard errors of the difference that a test at 5 % sees with a probability of 80 %."""

_Array = NDArray[np.float64]
Shared = Mapping[Text, tuple[int, ...]]
"""Text → positions of windows."""


@dataclass(frozen=True)
class Field:
    """Candidates on the same windows.

    Attributes:
        members: The candidates.
        shared: The windows.
    """

    members: tuple[Observed, ...]
    shared: Shared

    @property
    def windows(self) -> int:
        """Number of windows."""
        return sum(map(len, self.shared.values()))

    @cached_property
    def means(self) -> _Array:
        """Divergence of each member: the mean over texts of the mean over a text's windows."""
        return np.asarray(np.mean([self._values(text).mean(axis=1) for text in self.shared], axis=0))

    @cached_property
    def drawn(self) -> _Array | None:
        """`(members, draws)`; None if a text has too few windows."""
        if any(len(positions) < FEWEST_TEXT_WINDOWS for positions in self.shared.values()):
            return None
        draws = [
            series_draws(self._values(text), positions, np.random.default_rng(zlib.crc32(text.name.encode())), DRAWS)
            for text, positions in self.shared.items()
        ]
        return np.asarray(np.mean(draws, axis=0))

    def more_windows(self, first: int, second: int, margin: float) -> int | None:
        """Further windows that would show a difference of `margin` nats between two members; None if unknown."""
        values = np.concatenate([self._values(text)[second] - self._values(text)[first] for text in self.shared])
        if len(values) < FEWEST_TEXT_WINDOWS or margin <= 0:
            return None
        needed = math.ceil((_POWER * float(values.std(ddof=1)) / margin) ** 2)
        return max(0, needed - len(values))

    def _values(self, text: Text) -> _Array:
        return np.array([[_on(one, text, position) for position in self.shared[text]] for one in self.members])


@dataclass(frozen=True)
class Ranking:
    """The candidates of a question, compared.

    Attributes:
        stages: The comparisons: all candidates on the windows that most have, then those not told apart on more.
        apart: Candidates that were measured on other windows, so that nothing compares them.
    """

    stages: tuple[Field, ...]
    apart: tuple[Observed, ...]

    def field_of(self, one: Observed) -> Field | None:
        """The last comparison that a candidate took part in; None if it took part in none."""
        return next((stage for stage in reversed(self.stages) if one in stage.members), None)

    def divergence(self, one: Observed) -> float | None:
        """Its divergence on the windows of its last comparison."""
        field = self.field_of(one)
        return None if field is None else float(field.means[field.members.index(one)])


def rank(candidates: Sequence[Observed]) -> Ranking:
    """Compare candidates on the windows that most of them share, then the best set on all windows that it shares."""
    measured = [one for one in candidates if one.candidate.is_reference or one.windows]
    if not measured:
        return Ranking((), tuple(candidates))
    first = _field(measured)
    stages, members = [first], first.members
    while first.windows:
        members = best_set(stages[-1], 1 - (1 - CONFIDENCE) / 2 ** len(stages))
        shared = _common(members)
        if len(members) < 2 or sum(map(len, shared.values())) <= stages[-1].windows:
            break
        stages.append(Field(tuple(members), shared))
    return Ranking(tuple(stages), tuple(one for one in candidates if one not in first.members))


def best_set(field: Field, confidence: float = CONFIDENCE) -> tuple[Observed, ...]:
    """The members that no other is shown to be better than; all of them if windows are too few to tell."""
    if field.drawn is None:
        return field.members
    moves = field.drawn - field.means[:, None]
    kept = []
    for index, one in enumerate(field.members):
        spread = (moves[index] - moves).std(axis=1)
        behind = field.means[index] - field.means
        others = [j for j in range(len(field.members)) if j != index and spread[j] > 0]
        same = [j for j in range(len(field.members)) if j != index and spread[j] == 0]
        largest = np.max((moves[index] - moves[others]) / spread[others, None], axis=0) if others else np.zeros(1)
        critical = float(np.quantile(largest, confidence))
        if all(behind[j] <= critical * spread[j] for j in others) and all(behind[j] <= 0 for j in same):
            kept.append(one)
    return tuple(kept)


def _field(measured: Sequence[Observed]) -> Field:
    """The candidates that have the windows which most candidates have; of several such sets, the largest."""
    sets = [_windows(one) for one in measured if one.windows]
    if not sets:
        return Field(tuple(measured), {})

    def worth(shared: Shared) -> tuple[int, int, str]:
        return sum(_has(one, shared) for one in measured), sum(map(len, shared.values())), repr(sorted(shared.items()))

    shared = max(sets, key=worth)
    return Field(tuple(one for one in measured if _has(one, shared)), shared)


def _common(members: Sequence[Observed]) -> Shared:
    """The windows that all have."""
    sets = [_windows(one) for one in members if not one.candidate.is_reference]
    texts = [text for text in (sets[0] if sets else {}) if all(text in each for each in sets)]
    both = {text: tuple(p for p in sets[0][text] if all(p in each[text] for each in sets)) for text in texts}
    return {text: positions for text, positions in both.items() if positions}


def _windows(one: Observed) -> dict[Text, tuple[int, ...]]:
    return {text: tuple(sorted(one.windows[text])) for text in sorted(one.windows, key=repr) if one.windows[text]}


def _has(one: Observed, shared: Shared) -> bool:
    if one.candidate.is_reference:
        return True
    return all(position in one.windows.get(text, {}) for text, positions in shared.items() for position in positions)


def _on(one: Observed, text: Text, position: int) -> float:
    """Divergence on a window; full precision has none from itself."""
    return 0.0 if one.candidate.is_reference else one.windows[text][position]
