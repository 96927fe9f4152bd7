"""Group records into sections: one model under one set of conditions, shown in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from slmquant.analysis.cells import accuracy_tasks, conditions, text_tasks
from slmquant.analysis.endpoints import DEFAULT_MARGINS, Margins
from slmquant.analysis.score_intervals import draw_scores, infer_interval
from slmquant.analysis.score_table import CellScores, score_table
from slmquant.analysis.scores import DEFAULT_OPTIONS, ScoreOptions
from slmquant.analysis.standing import Answers, Standing, standings
from slmquant.store.export import calibration_label
from slmquant.store.outdated import apart
from slmquant.store.record import CellSpec, ItemOutcome, Record


@dataclass(frozen=True)
class Cell:
    """A measured cell and its scores.

    Attributes:
        record: The record measured in torch, or on an engine.
        scores: Its scores.
        engines: Engine → cell of the same quantized model on that engine.
        apart: What distinguishes it from cells of the same method and scheme, such as the seed; empty if it is the
            only one.
    """

    record: Record
    scores: CellScores
    engines: Mapping[str, Cell] = field(default_factory=dict)
    apart: str = ""

    @property
    def is_reference(self) -> bool:
        """Whether it is the full-precision cell."""
        return self.record.spec.is_reference

    @property
    def method(self) -> str:
        """`gptq`, or `gptq (seed 1)` if the table has the same method and scheme with another seed."""
        return self.record.spec.method + (f" ({self.apart})" if self.apart else "")

    @property
    def name(self) -> str:
        """`gptq W4A16g64`, or `full precision`."""
        spec = self.record.spec
        plain = "full precision" if self.is_reference else f"{spec.method} {spec.scheme}"
        return plain + (f" ({self.apart})" if self.apart else "")


@dataclass(frozen=True)
class Section:
    """Cells that differ only in the quantization.

    Attributes:
        model: Model source.
        cells: Measured cells, full precision first, then by divergence and perplexity.
        failures: Cells that were refused or failed, by method and scheme.
        texts: Tasks with a perplexity or a divergence.
        tasks: Tasks with an accuracy.
        standings: Comparisons with full precision and with the best cell, by task and metric.
        options: How the scores were computed.
        outdated: Why its rows are outdated; empty if they are current.
        margins: Differences that count as none.
        best_by_score: `perf` and `above chance` → the cells not significantly below the highest score.
    """

    model: str
    cells: tuple[Cell, ...]
    failures: tuple[Record, ...]
    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    standings: tuple[Standing, ...] = ()
    options: ScoreOptions = DEFAULT_OPTIONS
    outdated: tuple[str, ...] = ()
    margins: Margins = DEFAULT_MARGINS
    best_by_score: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def records(self) -> list[Record]:
        """All records of the section, measured ones first."""
        return [cell.record for cell in self.cells] + list(self.failures)

    @property
    def engines(self) -> list[str]:
        """Engines on which any cell was measured."""
        return list(dict.fromkeys(engine for cell in self.cells for engine in cell.engines))

    @property
    def accuracies(self) -> list[Standing]:
        """The standings of tasks with right and wrong answers."""
        return [standing for standing in self.standings if standing.metric == "accuracy"]

    @property
    def reference(self) -> Cell | None:
        """The full-precision cell, or None."""
        return next((cell for cell in self.cells if cell.is_reference), None)

    @property
    def quantized(self) -> list[Cell]:
        """The measured cells without the full-precision ones, best first."""
        return [cell for cell in self.cells if not cell.is_reference]


NO_ANSWERS: Answers = {}
"""No per-item answers; cells are then compared by their standard errors alone."""


def sections(
    records: Sequence[Record],
    options: ScoreOptions = DEFAULT_OPTIONS,
    answers: Answers = NO_ANSWERS,
    margins: Margins = DEFAULT_MARGINS,
) -> list[Section]:
    """Group records by model, tasks, dtype, device and inputs, in order of first appearance.

    Outdated rows come last, in separate sections. A record of an engine is attached to the cell that it ran; if it
    failed, it is among the failures.
    """
    scores = {score.cell_id: score for score in score_table(records, options)}
    groups: dict[object, list[Record]] = {}
    outdated = apart(records)
    for record in sorted(records, key=lambda record: record.cell_id in outdated):
        if record.spec.engine is None:
            groups.setdefault((conditions(record), record.cell_id in outdated), []).append(record)
    on_engines = {record.spec: record for record in records if record.spec.engine is not None}
    names = list(dict.fromkeys(spec.engine for spec in on_engines if spec.engine is not None))
    result = []
    for group in groups.values():
        of_engines = [on_engines[spec] for r in group for name in names if (spec := r.spec.on(name)) in on_engines]
        reasons = tuple(dict.fromkeys(outdated[r.cell_id] for r in group if r.cell_id in outdated))
        result.append(replace(_section(group, of_engines, scores, answers, options, margins), outdated=reasons))
    return result


def _section(
    group: list[Record],
    on_engines: list[Record],
    scores: dict[str, CellScores],
    answers: Answers,
    options: ScoreOptions,
    margins: Margins,
) -> Section:
    texts, tasks = text_tasks(group), accuracy_tasks(group)
    text = texts[0] if texts else None
    apart = told_apart([record.spec for record in group if record.status == "ok"])
    perf, above = draw_scores(group, answers, options)
    scores = scores | {
        cell_id: replace(
            known,
            perf=replace(known.perf, interval=perf.intervals.get(cell_id)),
            perf_above_chance=replace(known.perf_above_chance, interval=above.intervals.get(cell_id)),
        )
        for cell_id, known in scores.items()
        if cell_id in {record.cell_id for record in group}
    }
    measured = [
        Cell(
            record,
            scores[record.cell_id],
            {
                str(r.spec.engine): Cell(r, _with_interval(scores[r.cell_id], answers.get(r.cell_id, ())))
                for r in on_engines
                if r.status == "ok" and r.spec == record.spec.on(str(r.spec.engine))
            },
            apart[record.spec],
        )
        for record in group
        if record.status == "ok"
    ]
    failures = [record for record in (*group, *on_engines) if record.status != "ok"]
    return Section(
        model=group[0].spec.model,
        cells=tuple(sorted(measured, key=lambda cell: _rank(cell, text))),
        failures=tuple(sorted(failures, key=lambda r: (r.status != "refused", r.spec.method, r.spec.scheme))),
        texts=tuple(texts),
        tasks=tuple(tasks),
        standings=tuple(standings(group, answers, margins)),
        options=options,
        margins=margins,
        best_by_score={"perf": perf.best, "above chance": above.best},
    )


def _with_interval(scores: CellScores, items: Sequence[ItemOutcome]) -> CellScores:
    return replace(scores, infer=replace(scores.infer, interval=infer_interval(scores.infer, items)))


def told_apart(specs: Sequence[CellSpec]) -> dict[CellSpec, str]:
    """What distinguishes each cell from others of its method and scheme: seed, calibration, budget, tasks."""
    groups: dict[tuple[str, str], list[CellSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.method, spec.scheme), []).append(spec)
    words = {}
    for group in groups.values():
        facts = [
            (
                f"seed {spec.seed}",
                calibration_label(spec.calibration) or "no calibration",
                *_inputs_words(spec),
                f"{spec.budget} budget" if spec.budget else "",
                " ".join(map(str, spec.tasks)),
            )
            for spec in group
        ]
        differ = [len(set(values)) > 1 for values in zip(*facts, strict=True)]
        for spec, own_facts in zip(group, facts, strict=True):
            words[spec] = ", ".join(fact for fact, differs in zip(own_facts, differ, strict=True) if differs and fact)
    return words


def _inputs_words(spec: CellSpec) -> tuple[str, str]:
    """(hash of the calibration text, versions of stages and methods), as shown to users."""
    if spec.inputs is None:
        return "", ""
    text, versions = spec.inputs.calibration_sha256, (*spec.inputs.stages, *spec.inputs.methods)
    return f"text {text[:8]}" if text else "", " ".join(f"{name} v{version}" for name, version in versions)


def _rank(cell: Cell, text: str | None) -> tuple[bool, float, float, str]:
    divergence = cell.record.metric("kl_mean", text)
    perplexity = cell.record.metric("perplexity", text)
    return (
        not cell.is_reference,
        divergence.value if divergence else math.inf,
        perplexity.value if perplexity else math.inf,
        cell.name,
    )
