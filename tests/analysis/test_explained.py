"""Figures of an explanation: parts over the whole, their sums, and what each kind of prediction holds."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from slmquant.analysis.explained import bucket_figures, family_figures, whole_of
from slmquant.report.explanation import explanation_tables, headline
from slmquant.store.experiments import Divergence, Sample
from slmquant.store.explanations import Bucket, Context, Explanation, Guess, Part
from tests import invented

LEVELS = (1.0, 1.4, 0.7, 0.9)


def divergence(mean: float) -> Divergence:
    return (tuple(mean * level for level in LEVELS),)


def explanation() -> Explanation:
    """Weights cause 0.02, activations 0.06, and both together 0.1; half of the predictions have four fifths of it."""
    return Explanation(
        model="m", model_sha256="0", method="rtn", scheme="W8A8", calibration=None, compute_dtype="float32",
        samples=(Sample(corpus="text", sha256="", length=11, positions=(0, 9, 18, 27)),),
        environment=invented.ENVIRONMENT, finished_at=datetime.now(timezone.utc),
        whole=divergence(0.1), none=divergence(0.0),
        parts=(
            Part(family="operands", name="weights", alone=divergence(0.02), given_back=divergence(0.06)),
            Part(family="operands", name="activations", alone=divergence(0.06), given_back=divergence(0.02)),
        ),
        buckets=tuple(
            Bucket(aspect="rarity", name=name, sums=divergence(share), counts=((5, 5, 5, 5),))
            for name, share in (("rare", 0.8), ("common", 0.2))
        ),
        worst=(
            Context(text="a\nb [red]", next=" c", corpus="text", position=3, divergence=4.2,
                    reference=Guess(token=" c", probability=0.9), quantized=Guess(token=" d", probability=0.5)),
        ),
    )  # fmt: skip


def test_parts_alone_and_given_back_are_shares_of_the_whole_and_their_sums_show_interactions() -> None:
    (family,) = family_figures(explanation())

    weights, activations = family.parts
    assert (weights.alone.value, weights.recovered.value) == pytest.approx((0.2, 0.4))
    assert (activations.alone.value, activations.recovered.value) == pytest.approx((0.6, 0.8))
    assert (family.sum_alone.value, family.sum_recovered.value) == pytest.approx((0.8, 1.2))
    assert whole_of(explanation()).value == pytest.approx(0.1)


def test_kinds_of_predictions_have_means_and_shares() -> None:
    rare, common = bucket_figures(explanation())["rarity"]

    assert (rare.predictions, common.predictions) == (0.5, 0.5)
    assert (rare.share.value, common.share.value) == pytest.approx((0.8, 0.2))
    assert rare.mean.value == pytest.approx(0.8 / 5)


def test_no_divergence_is_below_zero_however_much_windows_differ() -> None:
    uneven = Bucket(aspect="rarity", name="rare", sums=((0.0, 0.0, 0.0, 3.0),), counts=((1, 1, 1, 1),))
    even = Bucket(aspect="rarity", name="common", sums=divergence(0.2), counts=((5, 5, 5, 5),))
    (rare, _) = bucket_figures(explanation().model_copy(update={"buckets": (uneven, even)}))["rarity"]

    for figure in (rare.mean, rare.share):
        assert figure.interval is not None and 0 < figure.interval.low < figure.value < figure.interval.high


def test_tables_show_all_of_it() -> None:
    tables = explanation_tables(explanation())

    assert [table.title for table in tables] == [
        "what it comes from, by operand",
        "where it shows, by how rare the token read last is",
        "the predictions that diverge most",
    ]
    assert tables[0].rows[-1][0] == "sum"
    assert tables[0].rows[-1][1].startswith("80.0 %")
    assert list(tables[-1].rows[0]) == ["4.2", "...a⏎b [red]", " c", " c (0.90)", " d (0.50)"]
    assert headline(explanation()).startswith("m/rtn/W8A8: 0.1000 [")
