"""What to measure next for a question, or that nothing is left that could be the answer.

Successive halving: every proposal that may fit is measured on few windows of text, the most promising first; those not
shown to be worse than the leader (`racing`), at most half of them, on four times as many windows; until one is left,
time is up, or the largest number of windows was measured. What would take longer than the time left, and what is
predicted to be far worse than the leader, is left out and said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from slmquant.recommendation.answer import Ruled
from slmquant.recommendation.evidence import Evidence, Observed
from slmquant.recommendation.judging import judge, size_of
from slmquant.recommendation.prior import SPREAD, Prior
from slmquant.recommendation.question import Question, option, written
from slmquant.recommendation.racing import halved, still_racing
from slmquant.recommendation.space import Proposal

RUNGS = (4, 16, 64)
"""Windows of each text in each round."""
HOPELESS = 3.0
"""Standard errors of a prediction by which a proposal must be worse than the leader to be left out."""

LIKELY_KEPT = 0.1
"""Divergence, in nats, below which accuracy is likely to be kept: only says what is tried first."""

Rule = Callable[[Sequence[Proposal], Evidence], Sequence[Ruled]]
"""A function that leaves out proposals before they are measured, given what is known of the model."""


@dataclass(frozen=True)
class Sizing:
    """What is known of proposals before they are made.

    Attributes:
        size_bytes: Scheme → bytes of its file.
        refused: Label of a proposal → why it cannot be made.
        parameters: Parameters of the model.
    """

    size_bytes: Mapping[str, int]
    refused: Mapping[str, str]
    parameters: int

    def of(self, proposal: Proposal) -> int | None:
        """Bytes of a proposal's file; None if unknown."""
        return proposal.chosen_for if proposal.scheme is None else self.size_bytes.get(proposal.scheme)


@dataclass
class Schedule:
    """The order in which proposals are measured.

    Attributes:
        question: The question.
        sizing: Sizes and refusals.
        prior: Predictions.
        rules: Rules that may leave out proposals.
        left_out: Proposals that are not measured, and why.
    """

    question: Question
    sizing: Sizing
    prior: Prior
    rules: Sequence[Rule] = ()
    left_out: dict[str, Ruled] = field(default_factory=dict)

    def open(self, proposals: Sequence[Proposal], evidence: Evidence) -> list[Proposal]:
        """The proposals that may fit and were not measured, the most promising first; the others are left out."""
        limit = self.question.constraints.max_bytes
        for one in proposals:
            size = self.sizing.of(one)
            if (reason := self.sizing.refused.get(one.label)) is not None:
                self._leave_out(one.label, "refusal", reason)
            elif limit is not None and size is not None and size > limit:
                by = f"{option('max_bytes')} at most {written('max_bytes', limit)}"
                self._leave_out(one.label, by, written("max_bytes", size))
        for rule in self.rules:
            for ruled in rule([one for one in proposals if one.label not in self.left_out], evidence):
                self.left_out.setdefault(ruled.label, ruled)
        waiting = [one for one in proposals if one.label not in self.left_out and not one.is_measured(evidence)]
        return sorted(waiting, key=lambda one: (self._promise(one), one.label))

    def is_pointless(self, proposal: Proposal, evidence: Evidence) -> bool:
        """Whether a proposal cannot be the answer, by prediction or by its size; then it is left out."""
        asked = self.question.constraints
        measured = [one for one in judge(self.question, evidence).judged if one.observed.windows]
        size, guess = self.sizing.of(proposal), self._predicted(proposal)
        if asked.max_divergence is not None and asked.keep is None and size is not None:
            smallest = min(
                (size_of(one.observed, self.question.engine) or size for one in measured if one.fits), default=None
            )
            if smallest is not None and smallest <= size:
                has = f"{written('max_bytes', size)}, and {written('max_bytes', smallest)} have the quality"
                self._leave_out(proposal.label, "size", has)
                return True
        best = min((one.observed.mean for one in measured if one.fits and one.observed.mean), default=0.0)
        reached = max(best, self._enough or 0.0)
        if not reached or guess is None or not measured:
            return False
        if guess - HOPELESS * SPREAD <= math.log(reached):
            return False
        state = "enough" if reached == self._enough else "reached already"
        about = f"about {math.exp(guess):.2g} nats, and {reached:.2g} are {state}"
        self._leave_out(proposal.label, "prediction", about)
        return True

    def problem(self, proposal: Proposal, reason: str, is_time: bool = False) -> None:
        """Leave out a proposal that could not be made, maybe for lack of time."""
        self._leave_out(proposal.label, "--minutes" if is_time else "a failure", reason.partition("; ")[0])

    def no_time(self, proposal: Proposal) -> None:
        """Leave out a proposal for lack of time."""
        self._leave_out(proposal.label, "--minutes", "no time was left to measure it")

    def finalists(self, evidence: Evidence) -> tuple[Observed, ...]:
        """Candidates that are worth more windows: they fit as far as is known, and race for the first place."""
        judgement = judge(self.question, evidence)
        fitting = [one.observed for one in judgement.judged if not one.misses and one.observed.windows]
        racing = halved(still_racing(fitting))
        return racing if len(racing) > 1 else ()

    def learned(self, evidence: Evidence) -> None:
        """Take the model's level from what was measured of it."""
        seen = []
        for one in evidence.candidates:
            size = one.file_bytes or one.stored_bytes
            if size is not None and one.mean is not None:
                seen.append((one.candidate.method, 8 * size / self.sizing.parameters, one.mean))
        self.prior = self.prior.at_level(seen)

    def _leave_out(self, label: str, by: str, reason: str) -> None:
        self.left_out.setdefault(label, Ruled(label=label, by=by, reason=reason))

    def _predicted(self, proposal: Proposal) -> float | None:
        size = self.sizing.of(proposal)
        if size is None:
            return None
        return self.prior.log_divergence(proposal.method, 8 * size / self.sizing.parameters)

    def _promise(self, proposal: Proposal) -> float:
        """Sort key: the least predicted divergence or, if a quality is asked for, the smallest that should have it."""
        guess, size = self._predicted(proposal), self.sizing.of(proposal)
        if guess is None or size is None:
            return math.inf
        if self._enough is None:
            return guess
        return size + (0 if guess <= math.log(self._enough) + SPREAD else 10 * self.sizing.parameters)

    @property
    def _enough(self) -> float | None:
        """The divergence that should do; None if the least is best."""
        asked = self.question.constraints
        return asked.max_divergence or (LIKELY_KEPT if asked.keep is not None else None)
