"""Figures of an explanation: what each part of a model contributes, and how much each kind of prediction diverges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slmquant.analysis.window_means import Array, Figure, WindowMeans, ratio
from slmquant.store.explanations import Aspect, Bucket, Explanation, Family, Part


@dataclass(frozen=True)
class PartFigures:
    """What one part contributes.

    Attributes:
        name: The part.
        alone: Divergence with only this part rounded, over that with everything rounded.
        recovered: Share of the divergence that goes if only this part is given back.
    """

    name: str
    alone: Figure
    recovered: Figure


@dataclass(frozen=True)
class FamilyFigures:
    """The parts of one division, and how far they add up; both sums are 1 where rounding errors do not interact.

    Attributes:
        family: The division.
        parts: Its parts, in the order of the model.
        sum_alone: Sum over parts of `alone`.
        sum_recovered: Sum over parts of `recovered`.
    """

    family: Family
    parts: tuple[PartFigures, ...]
    sum_alone: Figure
    sum_recovered: Figure


@dataclass(frozen=True)
class BucketFigures:
    """How much one kind of prediction diverges.

    Attributes:
        name: The kind.
        predictions: Its share of all predictions.
        mean: Its mean divergence, in nats.
        share: Its share of the sum of all divergences.
    """

    name: str
    predictions: float
    mean: Figure
    share: Figure


def whole_of(explanation: Explanation) -> Figure:
    """The divergence with everything rounded, in nats per token."""
    return _means(explanation, [explanation.whole]).positive(lambda x: x[0])


def family_figures(explanation: Explanation) -> tuple[FamilyFigures, ...]:
    """The figures of every division."""
    families: dict[Family, list[Part]] = {}
    for part in explanation.parts:
        families.setdefault(part.family, []).append(part)
    return tuple(_family(explanation, family, parts) for family, parts in families.items())


def bucket_figures(explanation: Explanation) -> dict[Aspect, tuple[BucketFigures, ...]]:
    """The figures of every kind of prediction, by aspect."""
    aspects: dict[Aspect, list[Bucket]] = {}
    for bucket in explanation.buckets:
        aspects.setdefault(bucket.aspect, []).append(bucket)
    return {aspect: tuple(_bucket(explanation, bucket, several) for bucket in several)
            for aspect, several in aspects.items()}  # fmt: skip


def _family(explanation: Explanation, family: Family, parts: Sequence[Part]) -> FamilyFigures:
    count = len(parts)
    series = [explanation.whole, *(one.alone for one in parts), *(one.given_back for one in parts)]
    means = _means(explanation, series)

    def figures(place: int) -> PartFigures:
        alone = means.figure(lambda x: ratio(x[1 + place], x[0]))
        recovered = means.figure(lambda x: 1 - ratio(x[1 + count + place], x[0]))
        return PartFigures(parts[place].name, alone, recovered)

    return FamilyFigures(
        family,
        tuple(map(figures, range(count))),
        means.figure(lambda x: ratio(x[1 : 1 + count].sum(axis=0), x[0])),
        means.figure(lambda x: count - ratio(x[1 + count :].sum(axis=0), x[0])),
    )


def _bucket(explanation: Explanation, bucket: Bucket, several: Sequence[Bucket]) -> BucketFigures:
    texts = range(len(explanation.samples))
    series = [
        np.array([bucket.sums[text], bucket.counts[text], np.sum([one.sums[text] for one in several], axis=0)])
        for text in texts
    ]
    means = WindowMeans(tuple(series), tuple(sample.positions for sample in explanation.samples))
    total = sum(sum(map(sum, one.counts)) for one in several)
    return BucketFigures(
        bucket.name,
        sum(map(sum, bucket.counts)) / total,
        means.positive(lambda x: ratio(x[0], x[1])),
        means.positive(lambda x: ratio(x[0], x[2])),
    )


def _means(explanation: Explanation, series: Sequence[tuple[tuple[float, ...], ...]]) -> WindowMeans:
    texts: list[Array] = [np.array([one[text] for one in series]) for text in range(len(explanation.samples))]
    return WindowMeans(tuple(texts), tuple(sample.positions for sample in explanation.samples))
