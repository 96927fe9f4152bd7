"""Records sorted into what one table may hold: one model under one set of conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from slmquant.analysis.cells import accuracy_tasks, conditions, is_reference, text_tasks
from slmquant.analysis.endpoints import DEFAULT_MARGINS, Margins
from slmquant.analysis.score_intervals import draw_scores, infer_interval
from slmquant.analysis.scores import DEFAULT_OPTIONS, CellScores, ScoreOptions, score_table
from slmquant.analysis.standing import Answers, Standing, standings
from slmquant.store.export import calibration_label
from slmquant.store.inputs import apart
from slmquant.store.record import CellSpec, ItemOutcome, Record


@dataclass(frozen=True)
class Cell:
    """A measured cell and its scores.

    Attributes:
        record: What was measured in torch.
        scores: The scores of that.
        engines: Engine → what was measured of the same quantized model on it.
        apart: What tells it from another cell of the same method and scheme, such as its seed; empty where there is
            none.
    """

    record: Record
    scores: CellScores
    engines: Mapping[str, Cell] = field(default_factory=dict)
    apart: str = ""

    @property
    def is_reference(self) -> bool:
        """Whether it is the full-precision cell."""
        return is_reference(self.record)

    @property
    def method(self) -> str:
        """`gptq`, or `gptq (seed 1)` where the same method and scheme stand in the table with another seed."""
        return self.record.spec.method + (f" ({self.apart})" if self.apart else "")

    @property
    def name(self) -> str:
        """`gptq W4A16g64`, or `full precision`."""
        spec = self.record.spec
        plain = "full precision" if self.is_reference else f"{spec.method} {spec.scheme}"
        return plain + (f" ({self.apart})" if self.apart else "")


@dataclass(frozen=True)
class Section:
    """Cells that differ in the quantization alone.

    Attributes:
        model: Model source.
        cells: Measured cells: the full-precision ones first, then by divergence, else by perplexity.
        failures: Cells that were refused or failed, by method and scheme.
        texts: Tasks with a perplexity or a divergence.
        tasks: Tasks with an accuracy.
        standings: Which cells can be told apart from full precision and from the best, by each figure.
        options: How the scores were computed.
        outdated: Why its rows are not what would be measured now; empty where they are.
        margins: What counts as no difference.
        best_by_score: `perf` and `above chance` → the cells that the score does not tell apart from the highest.
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
        """Every record of the section, measured ones first."""
        return [cell.record for cell in self.cells] + list(self.failures)

    @property
    def engines(self) -> list[str]:
        """Engines on which any cell was measured."""
        return list(dict.fromkeys(engine for cell in self.cells for engine in cell.engines))

    @property
    def accuracies(self) -> list[Standing]:
        """Those of the standings that are of tasks with right and wrong answers."""
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
"""Without answers to single items, cells are told apart by their standard errors alone."""


def sections(
    records: Sequence[Record],
    options: ScoreOptions = DEFAULT_OPTIONS,
    answers: Answers = NO_ANSWERS,
    margins: Margins = DEFAULT_MARGINS,
) -> list[Section]:
    """Group records by model, tasks, dtype, device and inputs, in the order in which they first appear.

    Outdated rows come last, in sections of their own. What an engine made of a cell stands beside the cell; where it
    failed, among the failures.
    """
    scores = {score.cell_id: score for score in score_table(records, options)}
    groups: dict[object, list[Record]] = {}
    outdated = apart(records)
    for record in sorted(records, key=lambda record: record.cell_id in outdated):
        if record.spec.engine is None:
            groups.setdefault((conditions(record), record.cell_id in outdated), []).append(record)
    on_engines = {record.spec: record for record in records if record.spec.engine is not None}
    names = list(dict.fromkeys(spec.engine for spec in on_engines if spec.engine is not None))
    found = []
    for group in groups.values():
        beside = [on_engines[spec] for r in group for name in names if (spec := r.spec.on(name)) in on_engines]
        reasons = tuple(dict.fromkeys(outdated[r.cell_id] for r in group if r.cell_id in outdated))
        found.append(replace(_section(group, beside, scores, answers, options, margins), outdated=reasons))
    return found


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
    """What tells each cell from others of its method and scheme: seed, calibration set, budget of learning, tasks."""
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
        for spec, mine in zip(group, facts, strict=True):
            words[spec] = ", ".join(fact for fact, wanted in zip(mine, differ, strict=True) if wanted and fact)
    return words


def _inputs_words(spec: CellSpec) -> tuple[str, str]:
    """Which text of its name it was calibrated on, and which version of the method rounded it."""
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
