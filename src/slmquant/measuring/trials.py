"""Measures candidates as cells of a plan, in the store, under the conditions of the cells that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmquant import api, tasks
from slmquant.calib.corpora import calibration_corpus, whereabouts
from slmquant.errors import DataError
from slmquant.machine.process import Failure, Isolation, run_isolated
from slmquant.mixing.choose import Choice
from slmquant.progress import Progress
from slmquant.recommendation.candidate import Candidate
from slmquant.recommendation.evidence import CHOSEN_FOR, Evidence
from slmquant.recommendation.space import CHOOSING, Proposal
from slmquant.runs.plan import make_plan
from slmquant.runs.rows import Event
from slmquant.runs.runner import run
from slmquant.schemes.kept_mixtures import keep_mixture
from slmquant.store.record import REFERENCE, CalibrationSpec, Metric, TaskSpec
from slmquant.store.sqlite import Store

TEXTS = ("wikitext2", "c4", "exl_wiki", "tinystories")
"""Texts to measure divergence on: the first two that are here."""
SAMPLES, LENGTH = 64, 512
"""Calibration windows, and tokens of each: half of the usual ones, which costs little quality and half of the time."""
SHORTEST_S = 30.0
"""Least time limit of a cell, in seconds."""


@dataclass(frozen=True)
class ChoiceJob:
    """Types to choose for a file of so many bytes."""

    source: str
    max_bytes: int
    calibration: CalibrationSpec
    data_dir: Path | None


def choose_types(job: ChoiceJob, progress: Progress) -> Choice:
    """Choose types, and keep the mixture under its name.

    Raises:
        SlmquantError: As for `api.choose_mixture`.
    """
    choice = api.choose_mixture(
        job.source, job.max_bytes, method=CHOOSING, calibration=job.calibration, data_dir=job.data_dir,
        progress=progress,
    )  # fmt: skip
    keep_mixture(str(choice.scheme), job.source, {name: kind.type for name, kind in choice.weights.items()})
    return choice


@dataclass(frozen=True)
class Trials:
    """Measures candidates of one model.

    Attributes:
        model: The model.
        store: Receives the cells.
        calibration: Calibration set of candidates that name none.
        dtype: Dtype to compute in; `auto` measures and decides.
        data_dir: Local folder of data, tried first.
        progress: Receives progress updates.
        tell: Receives news of cells.
    """

    model: str
    store: Store
    calibration: CalibrationSpec
    dtype: str
    data_dir: Path | None
    progress: Progress
    tell: Callable[[Event], None]

    @classmethod
    def like(
        cls,
        evidence: Evidence,
        model: str,
        store: Store,
        data_dir: Path | None,
        progress: Progress,
        tell: Callable[[Event], None],
    ) -> Trials:
        """Trials under the conditions of the cells that there are."""
        used = [one.candidate.calibration for one in evidence.candidates if one.candidate.calibration is not None]
        spec = max(used, key=used.count, default=None)
        if spec is None:
            spec = CalibrationSpec(corpus=calibration_corpus(data_dir), num_samples=SAMPLES, seq_len=LENGTH)
        return cls(model, store, spec, evidence.dtype or "auto", data_dir, progress, tell)

    def candidate(self, proposal: Proposal, left_s: float) -> Candidate | Failure:
        """The candidate that a proposal stands for; types are chosen now."""
        if proposal.scheme is not None:
            return Candidate(method=proposal.method, scheme=proposal.scheme, calibration=self.calibration)
        assert proposal.chosen_for is not None  # noqa: S101  # for the type checker
        job = ChoiceJob(self.model, proposal.chosen_for, self.calibration, self.data_dir)
        choice = run_isolated(choose_types, job, self.progress, Isolation(timeout_s=max(SHORTEST_S, left_s)))
        if isinstance(choice, Failure):
            return choice
        return Candidate(
            method=proposal.method,
            scheme=str(choice.scheme),
            calibration=self.calibration,
            chosen_for=proposal.chosen_for,
        )

    def measure(
        self, candidates: Sequence[Candidate], asked: Sequence[TaskSpec], left_s: float, engine: str | None = None
    ) -> None:
        """Measure candidates on tasks, and on an engine if one is named; what the store has is not measured again."""
        include = [
            {
                "method": one.method,
                "scheme": one.scheme,
                "calibration": one.calibration or self.calibration,
                "seed": one.seed,
                **({} if one.budget is None else {"budget": one.budget}),
            }
            for one in candidates
            if one.method != REFERENCE
        ]
        plan = make_plan(
            {
                "models": [self.model],
                "include": include,
                "tasks": list(asked),
                "calibration": self.calibration,
                "dtype": self.dtype,
                "timeout_s": max(SHORTEST_S, left_s),
                **({} if engine is None else {"engines": [engine], "engine_rounds": 5}),
            }
        )
        result = run(plan, self.store, data_dir=self.data_dir, progress=self.progress, tell=self.tell)
        chosen_for = {one.scheme: one.chosen_for for one in candidates if one.chosen_for is not None}
        for record in result.records:
            bytes_ = chosen_for.get(record.spec.scheme)
            if bytes_ is not None and record.spec.engine is None and record.metric(CHOSEN_FOR) is None:
                metric = Metric(name=CHOSEN_FOR, value=bytes_, unit="bytes", higher_is_better=None)
                items = self.store.items(record.cell_id)
                self.store.put(record.model_copy(update={"metrics": (*record.metrics, metric)}), items)


def texts_here(evidence: Evidence, data_dir: Path | None, windows: int) -> list[TaskSpec]:
    """The texts of the cells that there are, with their windows; else `windows` of two texts that are here.

    Raises:
        DataError: There is no text.
    """
    known = Counter(texts for one in evidence.candidates for texts in one.texts if texts)
    if known:
        most = max(known, key=lambda texts: (known[texts], -sum(text.limit or 0 for text in texts)))
        return list(most)
    here = [name for name in TEXTS if whereabouts(_corpus(name), data_dir) in ("folder", "package")]
    if not here:
        raise DataError("there is no text to measure divergence on; give a folder of data (--data or SLMQUANT_DATA)")
    return [TaskSpec(name=name, limit=windows) for name in here[:2]]


def _corpus(name: str) -> str:
    corpus = getattr(tasks.resolve(TaskSpec(name=name)), "corpus", None)
    return corpus if isinstance(corpus, str) else name
