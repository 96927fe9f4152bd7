"""The laboratory as one model: its matched models are trained alike but for a factor, and its seeds are the sample."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from slmquant.analysis.factors import BASE, Arm, arm_of, log_divergence
from slmquant.analysis.intervals import Interval, student
from slmquant.analysis.means import IndependentMeans
from slmquant.principles.common.cells import ModelCells
from slmquant.principles.common.contract import Evidence, Finding, Found, Need, Scale
from slmquant.store.record import Record

__all__ = ["FEWEST_SEEDS", "InLaboratory", "Laboratory", "Level", "found_in", "gathered"]

FEWEST_SEEDS = 5
"""With fewer seeds no verdict is given: the spread of so few is not known."""

Level = tuple[str, str]
"""A factor and one of its levels, as in the names of the laboratory's models."""
THE_BASE: Level = (BASE, BASE)


@dataclass(frozen=True)
class Laboratory(ModelCells):
    """All models of a laboratory.

    Attributes:
        arms: Factor, level and seed → that model's cells.
        left_out: Why they are no evidence; None if they are.
    """

    arms: Mapping[Arm, ModelCells]
    left_out: str | None

    def seeds(self, level: Level) -> dict[str, ModelCells]:
        """Seed → the model of a level."""
        return {seed: model for (factor, name, seed), model in self.arms.items() if (factor, name) == level}


@dataclass(frozen=True)
class InLaboratory:
    """Evidence from levels of factors, each against another within every seed.

    Attributes:
        levels: Pairs of levels, the second relative to the first.
        cells: The cells to compare, `method/scheme`; none for all that both levels have.
        plan: The plan that measures them.
        elsewhere: Evidence from other models; None if it takes models that differ in one thing alone.
    """

    levels: tuple[tuple[Level, Level], ...]
    cells: tuple[str, ...] = ()
    plan: str = "plans/lab.yaml"
    elsewhere: Evidence | None = None
    scale: Scale = "logarithm"

    def of(self, model: ModelCells, others: Sequence[ModelCells] = ()) -> Found:
        """The effect in the laboratory, over its seeds; in another model that of `elsewhere`."""
        if isinstance(model, Laboratory):
            return self._over_seeds(model)
        found = Found() if self.elsewhere is None else self.elsewhere.of(model, others)
        return found if found.findings else replace(found, needs=(*found.needs, self._need))

    @property
    def _need(self) -> Need:
        named = ", ".join(f"{_named(before)} and {_named(after)}" for before, after in self.levels)
        at = f", at {', '.join(self.cells)}" if self.cells else ""
        words = f"models of the laboratory, {FEWEST_SEEDS} seeds or more: {named}{at}"
        return Need(words, f"slmquant lab {self.plan}")

    def _over_seeds(self, laboratory: Laboratory) -> Found:
        effects: dict[str, dict[str, float]] = {}
        cells: dict[str, list[Record]] = {}
        for before, after in self.levels:
            first, second = laboratory.seeds(before), laboratory.seeds(after)
            for seed in sorted(first.keys() & second.keys()):
                for label, pair in self._matched(first[seed], second[seed]):
                    named = f"{label}: {_named(before)} → {_named(after)}"
                    one, other = map(log_divergence, pair)
                    if one is not None and other is not None:
                        effects.setdefault(named, {})[seed] = other - one
                        cells.setdefault(named, []).extend(pair)
        findings = [_finding(label, cells[label], list(values.values())) for label, values in effects.items()]
        whole = set.intersection(*(set(values) for values in effects.values())) if effects else ()
        means = [statistics.fmean(values[seed] for values in effects.values()) for seed in sorted(whole)]
        return _found(findings, means, (self._need,))

    def _matched(self, first: ModelCells, second: ModelCells) -> Iterable[tuple[str, tuple[Record, Record]]]:
        """Cells that both models have."""
        known, others = _cells(first), _cells(second)
        for label in sorted(known.keys() & others.keys()):
            if not self.cells or label in self.cells:
                yield label, (known[label], others[label])


def gathered(models: Sequence[ModelCells]) -> list[ModelCells]:
    """The models, those of a laboratory put together as one, the last."""
    arms: dict[Arm, ModelCells] = {}
    left_out = None
    others: list[ModelCells] = []
    for model in models:
        if (arm := arm_of(model.model)) is None:
            others.append(model)
        elif arm in arms:
            left_out = f"{arms[arm].model} and {model.model} are of different plans; read a store of one plan alone"
        else:
            arms[arm] = model
    if not arms:
        return others
    card = next((model.card for model in arms.values() if model.card is not None), None)
    if card is not None:
        seeds = len({seed for _, _, seed in arms})
        card = card.model_copy(update={"provenance": f"matched models trained from scratch, {seeds} seeds"})
    records = tuple(record for model in arms.values() for record in model.records)
    return [*others, Laboratory("laboratory", "", card, (), records, arms, left_out)]


def found_in(evidence: Evidence, model: ModelCells, models: Sequence[ModelCells]) -> Found:
    """The evidence of a model; in a laboratory that of its base, over seeds, unless its levels are compared."""
    if not isinstance(model, Laboratory):
        return evidence.of(model, models)
    if model.left_out is not None:
        return Found(remarks=(model.left_out,))
    if isinstance(evidence, InLaboratory):
        return evidence.of(model, models)
    of_seeds = [evidence.of(one, ()) for one in model.seeds(THE_BASE).values()]
    alike: dict[tuple[str, str], list[Finding]] = {}
    for found in of_seeds:
        for finding in found.findings:
            alike.setdefault((finding.label, finding.task), []).append(finding)
    findings = [
        Finding(
            *place,
            tuple(cell for one in several for cell in one.cells),
            *_mean([one.effect for one in several]),
            len(several),
        )
        for place, several in alike.items()
    ]
    return _found(findings, [found.estimate.mean for found in of_seeds if found.estimate is not None], ())


def _named(level: Level) -> str:
    return BASE if level == THE_BASE else " ".join(level)


def _finding(label: str, records: Sequence[Record], values: Sequence[float]) -> Finding:
    tasks = ", ".join(map(str, records[0].spec.tasks))
    return Finding(label, tasks, tuple(record.cell_id for record in records), *_mean(values), len(values))


def _found(findings: Sequence[Finding], of_seeds: Sequence[float], needs: tuple[Need, ...]) -> Found:
    """Findings, and the mean over seeds, if they are enough."""
    if not findings:
        return Found(needs=needs)
    if len(of_seeds) < FEWEST_SEEDS:
        few = f"{len(of_seeds)} seeds; a verdict takes {FEWEST_SEEDS}"
        return Found(tuple(findings), counted="seeds", needs=needs, remarks=(few,))
    error = statistics.stdev(of_seeds) / len(of_seeds) ** 0.5
    estimate = IndependentMeans(statistics.fmean(of_seeds), error, len(of_seeds) - 1)
    return Found(tuple(findings), estimate, len(of_seeds), "seeds")


def _mean(values: Sequence[float]) -> tuple[float, Interval | None]:
    """The mean over seeds, and Student's interval."""
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return mean, student(mean, error, len(values)) if error else None


def _cells(model: ModelCells) -> dict[str, Record]:
    """`method/scheme` → the latest record of a quantized cell."""
    return {f"{r.spec.method}/{r.spec.scheme}": r for r in model.records if not r.spec.is_reference}
