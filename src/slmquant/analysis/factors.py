"""Effects of factors on matched models: paired within blocks, tested over blocks.

The models of a block differ in one factor each and share text order and initial weights; a block is a seed. The
response is the logarithm of a cell's divergence over the whole text, so an effect is the logarithm of a ratio. Per text
instead of per token, as tokenizers may differ; where they do not, the ratio is the same. Seeds are the sample:
windows of text say how well one model is known, not whether another model of its kind would do the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.special import stdtrit

from slmquant.analysis.intervals import CONFIDENCE, Interval, student
from slmquant.analysis.multiple import holm
from slmquant.errors import StoreError
from slmquant.store.record import REFERENCE, Record

BASE, PLACEBO = "base", "placebo"
Arm = tuple[str, str, str]
"""Factor, level, block."""
_POWER = 0.8
_Response = dict[str, float]
"""Cell (`method/scheme`) → logarithm of its divergence."""


@dataclass(frozen=True)
class Difference:
    """A mean of differences, one for each block.

    Attributes:
        value: The mean.
        interval: Student's interval over blocks; None of one block, or of equal differences.
        n: Number of blocks.
    """

    value: float
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class Effect:
    """A level of a factor against the base.

    Attributes:
        factor: The factor.
        level: The level.
        divergence: Logarithm of the ratio of divergences, mean over the cells.
        p: Exact two-sided p over all signs of the blocks' differences.
        p_corrected: The same, corrected by Holm over all levels of the study; the placebo's is `p`.
        smallest: Least effect that as many blocks show with a power of 80 %, before any correction; None if unknown.
        loss: Difference of the full-precision loss, in nats per token of the base.
        parameters: Number of parameters over that of the base.
        cells: Cell → the effect in it.
    """

    factor: str
    level: str
    divergence: Difference
    p: float
    p_corrected: float
    smallest: float | None
    loss: Difference
    parameters: float
    cells: Mapping[str, Difference]


@dataclass(frozen=True)
class Study:
    """All effects of a laboratory.

    Attributes:
        effects: The placebo first, then level by level as they were measured.
        blocks: The seeds.
        least_p: The smallest corrected p that so many blocks and levels can reach.
        remarks: What was left out, and what cannot be told.
    """

    effects: tuple[Effect, ...]
    blocks: tuple[str, ...]
    least_p: float
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The study as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Model:
    """What was measured of one model."""

    response: _Response
    loss: float | None
    tokens: float
    parameters: int


def study(records: Sequence[Record]) -> Study:
    """The effects that the cells of a laboratory show.

    Args:
        records: Its cells; those of other models are ignored. Of several records of a cell the last counts.

    Raises:
        StoreError: There are no cells of a laboratory, or none of its base.
    """
    models = _models(records)
    if not models:
        raise StoreError("there are no cells of a laboratory; run `slmquant lab plans/lab-small.yaml` first")
    blocks = tuple(dict.fromkeys(block for _, _, block in models))
    levels = dict.fromkeys((factor, level) for factor, level, _ in models if factor != BASE)
    remarks: list[str] = []
    found = [
        effect for factor, level in levels if (effect := _effect(models, factor, level, blocks, remarks)) is not None
    ]
    if not found:
        raise StoreError(f"no level can be compared with the base in any block: {'; '.join(remarks)}")
    corrected = holm({(one.factor, one.level): one.p for one in found if one.factor != PLACEBO})
    effects = [replace(one, p_corrected=corrected.get((one.factor, one.level), one.p)) for one in found]
    effects.sort(key=lambda one: one.factor != PLACEBO)
    least_p = min(1.0, 2.0 ** (1 - len(blocks)) * max(1, len(corrected)))
    if least_p > 1 - CONFIDENCE:
        remarks.append(
            f"{len(blocks)} blocks and {len(corrected)} levels can show no corrected p below {least_p:.2g}: "
            "add seeds to tell effects apart"
        )
    return Study(tuple(effects), blocks, least_p, tuple(remarks))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Exact two-sided p of a mean of 0: the share of all signs whose mean is at least as far from 0.

    Under the hypothesis that factor and base are exchangeable within every block, each sign is as likely as the other.
    """
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(differences))))
    means = np.abs(signs @ np.asarray(differences))
    return float(np.mean(means >= means[0] * (1 - 1e-12)))


def _models(records: Sequence[Record]) -> dict[Arm, _Model]:
    """What was measured of each model of a laboratory.

    Raises:
        StoreError: The cells are of several plans, whose models differ in more than a factor.
    """
    rows: dict[Arm, dict[str, Record]] = {}
    for record in records:
        arm = arm_of(record.spec.model)
        if arm is None or record.status != "ok":
            continue
        cells = rows.setdefault(arm, {})
        other = next(iter(cells.values()), record).spec.model
        if other != record.spec.model:
            raise StoreError(
                f"{other} and {record.spec.model} are of different plans; give each plan a store of its own (--store)"
            )
        cells[f"{record.spec.method}/{record.spec.scheme}"] = record
    models = {}
    for arm, cells in rows.items():
        references = [record for record in cells.values() if record.spec.is_reference]
        response = {
            label: value
            for label, record in cells.items()
            if record.spec.method != REFERENCE and (value := log_divergence(record)) is not None
        }
        loss, tokens = _loss(references[-1]) if references else (None, 1.0)
        counts = [record.model.parameters for record in cells.values() if record.model is not None]
        models[arm] = _Model(response, loss, tokens, counts[-1] if counts else 1)
    return models


def arm_of(model: str) -> Arm | None:
    """Factor, level and block of a model named `lab-FACTOR-LEVEL-SEED-KEY`; None for any other."""
    match model.split("-"):
        case "lab", factor, level, block, _:
            return factor, level, block
    return None


def log_divergence(record: Record) -> float | None:
    """Mean over texts of the logarithm of the divergence summed over the text; None if there is none."""
    metrics = [metric for metric in record.metrics if metric.name == "kl_mean" and metric.n]
    values = [math.log(metric.value * metric.n) for metric in metrics if metric.value > 0 and metric.n]
    return sum(values) / len(values) if values and len(values) == len(metrics) else None


def _loss(reference: Record) -> tuple[float | None, float]:
    """Loss summed over all texts in nats, and the number of tokens."""
    metrics = [metric for metric in reference.metrics if metric.name == "perplexity" and metric.n]
    tokens = float(sum(metric.n or 0 for metric in metrics))
    return (sum(math.log(metric.value) * (metric.n or 0) for metric in metrics), tokens) if metrics else (None, 1.0)


def _effect(
    models: Mapping[Arm, _Model], factor: str, level: str, blocks: Sequence[str], remarks: list[str]
) -> Effect | None:
    """A level against the base, over the blocks that have the same cells of both; None without such a block."""
    pairs = {
        block: (base, other)
        for block in blocks
        if (base := models.get((BASE, BASE, block))) and (other := models.get((factor, level, block)))
    }
    labels = _compared(factor, level, list(pairs.values()), remarks)
    whole = {
        block: pair
        for block, pair in pairs.items()
        if all(one.loss is not None and labels <= one.response.keys() for one in pair)
    }
    if absent := [block for block in blocks if block not in whole]:
        remarks.append(
            f"{factor} {level}: without blocks {', '.join(absent)}, where cells of it or the base are missing"
        )
    if not whole or not labels:
        return None
    cells = {
        label: [other.response[label] - base.response[label] for base, other in whole.values()]
        for label in sorted(labels)
    }
    means = [float(mean) for mean in np.mean(list(cells.values()), axis=0)]
    losses = [((other.loss or 0.0) - (base.loss or 0.0)) / base.tokens for base, other in whole.values()]
    base, other = next(iter(whole.values()))
    p = sign_flip_p(means)
    return Effect(
        factor=factor,
        level=level,
        divergence=_difference(means),
        p=p,
        p_corrected=p,
        smallest=_smallest(means),
        loss=_difference(losses),
        parameters=other.parameters / base.parameters,
        cells={label: _difference(values) for label, values in cells.items()},
    )


def _compared(factor: str, level: str, pairs: Sequence[tuple[_Model, _Model]], remarks: list[str]) -> set[str]:
    """The cells that both have in some block; what one of them never has is told."""
    of_base, of_other = (set().union(*(pair[place].response for pair in pairs)) for place in (0, 1))
    if lacking := sorted(of_base ^ of_other):
        remarks.append(f"{factor} {level}: without {', '.join(lacking)}, which only one of it and the base has")
    return of_base & of_other


def _difference(values: Sequence[float]) -> Difference:
    mean, error = float(np.mean(values)), _error(values)
    return Difference(mean, student(mean, error, len(values)) if error else None, len(values))


def _error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 of a single value."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _smallest(values: Sequence[float]) -> float | None:
    error, freedom = _error(values), len(values) - 1
    if not error:
        return None
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2) + stdtrit(freedom, _POWER)) * error
