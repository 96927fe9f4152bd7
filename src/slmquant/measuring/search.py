"""Measures what records lack for a question, within its minutes; see `recommendation.schedule` for the order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from slmquant import tasks
from slmquant.analysis.estimates import Costs
from slmquant.errors import ModelError, RefusedError
from slmquant.machine.environment import usable_cores
from slmquant.machine.process import Failure, run_isolated
from slmquant.measuring.sizes import Sizes, SizesJob, count_sizes
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.recommendation.candidate import Candidate
from slmquant.recommendation.evidence import Evidence
from slmquant.recommendation.judging import judge, mean_divergence
from slmquant.recommendation.question import Question
from slmquant.recommendation.schedule import RUNGS, Schedule
from slmquant.recommendation.space import LADDER, Proposal
from slmquant.store.record import CalibrationSpec, CellSpec, TaskSpec
from slmquant.tasks.common.suites import suite

_LEAST_S = 20.0
"""Seconds below which nothing is begun."""
_SHARE_FOR_CHOOSING = 0.6
"""Most of the time left that choosing types may take."""
_SIDE_BY_SIDE = 3
"""Candidates that an engine measures in turns."""
_ON_ENGINE: tuple[str, ...] = ("max_bytes", "min_tokens_per_second", "max_memory")


def sizes_of(question: Question, format_name: str, proposals: Sequence[Proposal], progress: Progress) -> Sizes:
    """Bytes of the model's files, counted in a process of its own.

    Raises:
        RefusedError: The format cannot hold the model.
        ModelError: The model cannot be used.
    """
    job = SizesJob(question.model, format_name, tuple(proposals), Places())
    found = run_isolated(count_sizes, job, progress)
    if isinstance(found, Failure):
        raise (RefusedError if found.status == "refused" else ModelError)(found.reason)
    return found


class Tries(Protocol):
    """Measures candidates; `measuring.trials.Trials` does, on the model itself."""

    @property
    def calibration(self) -> CalibrationSpec:
        """Calibration set of candidates that name none."""

    @property
    def dtype(self) -> str:
        """Dtype that they compute in; `auto` if that is not decided yet."""

    @property
    def data_dir(self) -> Path | None:
        """Local folder of data."""

    def candidate(self, proposal: Proposal, left_s: float) -> Candidate | Failure:
        """The candidate that a proposal stands for, or why there is none."""

    def measure(
        self, candidates: Sequence[Candidate], asked: Sequence[TaskSpec], left_s: float, engine: str | None = None
    ) -> None:
        """Measure candidates on tasks, and on an engine if one is named."""


@dataclass
class Search:
    """A search for the answer to one question.

    Attributes:
        question: The question.
        schedule: What is measured next.
        trials: Measures.
        texts: The texts of the first round, with their windows.
        read: Returns what is known by now.
        costs: What cells cost.
        say: Receives a line for each decision.
        deadline: When to stop, by `clock`.
        clock: Returns the time in seconds.
    """

    question: Question
    schedule: Schedule
    trials: Tries
    texts: Sequence[TaskSpec]
    read: Callable[[], Evidence]
    costs: Costs
    say: Callable[[str], None]
    deadline: float
    clock: Callable[[], float] = time.monotonic
    _tried: set[Proposal] = field(default_factory=set, init=False)

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return self.deadline - self.clock()

    def run(self, proposals: Sequence[Proposal]) -> Evidence:
        """Measure within the time; returns what is known then."""
        evidence = self._first_round(proposals, self.read())
        evidence = self._further_rounds(evidence)
        evidence = self._tasks(evidence)
        return self._engine(evidence)

    def _first_round(self, proposals: Sequence[Proposal], evidence: Evidence) -> Evidence:
        """Every proposal that may be the answer, on few windows."""
        self.schedule.learned(evidence)
        while waiting := [one for one in self.schedule.open(proposals, evidence) if one not in self._tried]:
            proposal = self._next(waiting, evidence)
            self._tried.add(proposal)
            if self.schedule.is_pointless(proposal, evidence):
                continue
            left_s = self.left_s - self._reserved_s
            if left_s < _LEAST_S or self._takes_s(proposal) > left_s:
                self.schedule.no_time(proposal)
                continue
            candidate = self.trials.candidate(proposal, _SHARE_FOR_CHOOSING * left_s)
            if isinstance(candidate, Failure):
                self.schedule.problem(proposal, candidate.reason, is_time=candidate.status == "timeout")
                continue
            self.trials.measure([candidate], self.texts, self.left_s - self._reserved_s)
            evidence = self.read()
            self.schedule.learned(evidence)
        return evidence

    @property
    def _reserved_s(self) -> float:
        """Seconds that are kept for accuracy and for the engine, if they are asked for."""
        asked = self.question.constraints
        later = asked.keep, asked.min_tokens_per_second, asked.max_memory
        return 60 * self.question.minutes / 3 if any(one is not None for one in later) else 0.0

    def _next(self, waiting: Sequence[Proposal], evidence: Evidence) -> Proposal:
        """The most promising one, after one of each quick method."""
        known = {one.candidate.method for one in evidence.candidates if one.windows}
        quick = [method for method in LADDER if method not in known | {one.method for one in self._tried}]
        return next((one for method in quick for one in waiting if one.method == method), waiting[0])

    def _takes_s(self, proposal: Proposal) -> float:
        """Seconds that a cell is expected to take; 0 if no record tells."""
        if proposal.scheme is None:
            return 0.0
        dtype = "float32" if self.trials.dtype == "auto" else self.trials.dtype
        spec = CellSpec.model_validate(
            {"model": self.question.model, "model_sha256": "", "method": proposal.method, "scheme": proposal.scheme,
             "calibration": self.trials.calibration, "tasks": tuple(self.texts), "compute_dtype": dtype}
        )  # fmt: skip
        estimate = self.costs.estimate(spec, self.schedule.sizing.parameters)
        return 0.0 if estimate.cpu_s is None else estimate.cpu_s / usable_cores()

    def _further_rounds(self, evidence: Evidence) -> Evidence:
        """Those not told apart, on more windows."""
        most = max(text.limit or 0 for text in self.texts)
        for windows in (count for count in RUNGS if count > most):
            finalists = self.schedule.finalists(evidence)
            asked = [TaskSpec(name=text.name, limit=windows) for text in self.texts]
            for one in finalists:
                if self.left_s - self._reserved_s < _LEAST_S:
                    self.say(f"no time was left to measure {one.candidate.label} on {windows} windows of each text")
                    break
                self.trials.measure([one.candidate], asked, self.left_s)
            evidence = self.read()
            if len(finalists) < 2 or self.left_s - self._reserved_s < _LEAST_S:
                break
        return evidence

    def _tasks(self, evidence: Evidence) -> Evidence:
        """Accuracy, if it is to be kept: the smallest first, until one keeps it."""
        if self.question.constraints.keep is None:
            return evidence
        answered = list(evidence.reference.answers) if evidence.reference is not None else []
        asked = [tasks.parse(name) for name in answered] or [
            one for one in suite("demo", self.trials.data_dir).tasks if tasks.has_items(one)
        ]
        for candidate in self._lacking(evidence, ("keep",)):
            if self.left_s < _LEAST_S or self._is_answered(evidence):
                break
            self.trials.measure([candidate], [*self.texts, *asked], self.left_s)
            evidence = self.read()
        return evidence

    def _engine(self, evidence: Evidence) -> Evidence:
        """What only the engine tells, of the best candidates, until one fits."""
        engine = self.question.engine
        while engine is not None and self.left_s >= _LEAST_S:
            waiting = self._lacking(evidence, _ON_ENGINE)[:_SIDE_BY_SIDE]
            if not waiting or self._is_answered(evidence):
                break
            self.trials.measure(waiting, self.texts, self.left_s, engine)
            before, evidence = evidence, self.read()
            if self._lacking(evidence, _ON_ENGINE)[:_SIDE_BY_SIDE] == self._lacking(before, _ON_ENGINE)[:_SIDE_BY_SIDE]:
                break
        return evidence

    def _is_answered(self, evidence: Evidence) -> bool:
        """Whether a candidate is known to meet every constraint."""
        judged = judge(self.question, evidence).judged
        return any(one.fits and not one.observed.candidate.is_reference for one in judged)

    def _lacking(self, evidence: Evidence, names: Sequence[str]) -> list[Candidate]:
        """Candidates that miss nothing, of which one of these is not known, the most promising first."""
        judgement = judge(self.question, evidence)
        found = [one for one in judgement.judged if not one.misses and set(one.lacks) & set(names)]
        found = [one for one in found if not one.observed.candidate.is_reference]
        of_quality = self.question.constraints.of_quality

        def key(each: int) -> tuple[float, float]:
            one = found[each].observed
            divergence = mean_divergence(one, judgement.ranking)
            size = float(one.file_bytes or one.stored_bytes or 0)
            return (size, divergence or 0.0) if of_quality else (divergence or 0.0, size)

        return [found[place].observed.candidate for place in sorted(range(len(found)), key=key)]
