"""Scores of a method and scheme over several models (the mean E of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slmquant.analysis.score_table import CellScores, score_table
from slmquant.analysis.scores import (
    DEFAULT_OPTIONS,
    Score,
    ScoreOptions,
    slmq_cons,
    slmq_infer,
    slmq_perf,
    slmq_perf_above_chance,
)
from slmquant.store.outdated import apart
from slmquant.store.record import CellSpec, Record

_Terms = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class ModelsScores:
    """The scores of one method and scheme over several models.

    Attributes:
        spec: What the cells have in common: everything but the model and its compute dtype.
        models: The models, two or more.
        perf: SLMQ_perf.
        perf_above_chance: The same with chance-corrected accuracies.
        infer: Engine → SLMQ_infer on that engine.
        cons: SLMQ_cons.
    """

    spec: CellSpec
    models: tuple[str, ...]
    perf: Score
    perf_above_chance: Score
    infer: Mapping[str, Score]
    cons: Score


def scores_over_models(records: Sequence[Record], options: ScoreOptions = DEFAULT_OPTIONS) -> list[ModelsScores]:
    """Score each method and scheme that was measured in the same way on two or more models.

    The same way means the same tasks, calibration set, budget and seed. Among several cells of a model, the latest
    counts. A score is None with a reason if a model lacks it or has different terms.
    """
    scores = {cell.cell_id: cell for cell in score_table(records, options)}
    groups: dict[CellSpec, dict[str, Record]] = {}
    outdated = apart(records)
    current = [record for record in records if record.cell_id not in outdated] or records
    for record in sorted((r for r in current if r.status == "ok"), key=lambda r: r.finished_at):
        spec = record.spec
        if spec.engine is None:
            shared_spec = spec.question.model_copy(update={"model": "", "compute_dtype": "float32"})
            groups.setdefault(shared_spec, {})[spec.model] = record
    on_engines = {record.spec: record for record in records if record.spec.engine is not None}
    engines = dict.fromkeys(spec.engine for spec in on_engines if spec.engine is not None)
    result = []
    for shared_spec, of_model in groups.items():
        if len(of_model) < 2:
            continue
        cells = {model: scores[record.cell_id] for model, record in of_model.items()}
        infer = {}
        for engine in engines:
            ran = {m: on_engines[spec] for m, r in of_model.items() if (spec := r.spec.on(engine)) in on_engines}
            if len(ran) == len(of_model):
                measured = {model: scores[record.cell_id] for model, record in ran.items()}
                infer[engine] = _score(measured, lambda cell: cell.infer, lambda terms: _infer(terms, options))
        result.append(
            ModelsScores(
                shared_spec,
                tuple(of_model),
                _score(cells, lambda cell: cell.perf, lambda terms: slmq_perf(terms, options.expectation)),
                _score(
                    cells,
                    lambda cell: cell.perf_above_chance,
                    lambda terms: slmq_perf_above_chance(terms, options.expectation),
                ),
                infer,
                _score(cells, lambda cell: cell.cons, lambda terms: _cons(terms, options)),
            )
        )
    return result


def _score(
    cells: Mapping[str, CellScores], choose: Callable[[CellScores], Score], combine: Callable[[_Terms], Score]
) -> Score:
    """Combine the ratios of all models, term by term."""
    scores = {model: choose(cell) for model, cell in cells.items()}
    for model, score in scores.items():
        if score.value is None:
            return Score(None, reason=f"{model}: {score.reason}")
    terms = {tuple(score.ratios) for score in scores.values()}
    if len({frozenset(names) for names in terms}) > 1:
        return Score(None, reason=f"the terms of the score differ between {', '.join(scores)}")
    names = next(iter(terms))
    return combine({name: [score.ratios[name] for score in scores.values()] for name in names})


def _infer(terms: _Terms, options: ScoreOptions) -> Score:
    return slmq_infer(terms["memory"], terms["tokens per second"], terms["size"], options.expectation)


def _cons(terms: _Terms, options: ScoreOptions) -> Score:
    return slmq_cons(terms["time"], terms["memory"], options.expectation)
