"""Proposed swaps fit, are within the error of their prediction, and are the most promising ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from random import Random

import pytest

from slmquant.mixing.candidates import ClassOfLinears
from slmquant.mixing.choose import Room, choose
from slmquant.mixing.proposals import Proposal, prediction_error, proposals
from slmquant.mixing.sensitivity import Sensitivity

BYTES = {"IQ4_NL": 18, "Q5_0": 22, "Q8_0": 34}
WEIGHTS = [f"model.layers.{block}.{kind}_proj" for block in range(3) for kind in ("q", "up")]


def made_up(seed: int, factor: float = 1.3, more_bytes: int = 20) -> tuple[Sensitivity, Room, Mapping[str, str]]:
    """Losses of six linears and an embedding, classes that were off by `factor`, and the best mixture."""
    random = Random(seed)
    scales = {name: random.uniform(0.5, 2.0) for name in ["model.embed_tokens", *WEIGHTS]}
    losses = {name: {kind: scale * 4.0**-place for place, kind in enumerate(BYTES)} for name, scale in scales.items()}
    classes = {
        kind: ClassOfLinears(linears=tuple(w for w in WEIGHTS if kind in w), predicted=1.0, measured=measured)
        for kind, measured in (("q_proj", factor), ("up_proj", 1 / factor))
    }
    sizes = {name: dict(BYTES) for name in losses}
    room = Room(sizes, 100, 100 + 18 * len(losses) + more_bytes)
    sensitivity = Sensitivity(losses=losses, classes=classes, elements=dict.fromkeys(losses, 32))
    return sensitivity, room, choose(sensitivity, room).types


def test_the_error_of_predictions_is_what_classes_were_off_by() -> None:
    assert prediction_error(made_up(0, 1.3)[0]) == pytest.approx(math.log(1.3))
    assert prediction_error(made_up(0, 1.0)[0]) == 0


@pytest.mark.parametrize("seed", range(10))
def test_each_proposal_fits_and_may_gain(seed: int) -> None:
    sensitivity, room, chosen = made_up(seed, factor=1.8)
    found = proposals(sensitivity, room, chosen)

    assert found
    assert [one.worth for one in found] == sorted((one.worth for one in found), reverse=True)
    for one in found:
        assert all(chosen[name] != kind for name, kind in one.types.items())
        assert room.taken({**chosen, **one.types}) <= room.bytes
        assert 0 <= one.cost <= one.error
        losses = sensitivity.losses
        assert one.cost == pytest.approx(sum(losses[n][k] - losses[n][chosen[n]] for n, k in one.types.items()))


def test_the_best_exchange_of_two_weights_is_proposed() -> None:
    """By hand: every pair of weights, one type smaller and one larger."""
    sensitivity, room, chosen = made_up(3)
    kinds, losses = list(BYTES), sensitivity.losses
    pairs = []
    for down, up in itertools.permutations(chosen, 2):
        lower, upper = kinds.index(chosen[down]) - 1, kinds.index(chosen[up]) + 1
        if lower < 0 or upper >= len(kinds):
            continue
        types = {down: kinds[lower], up: kinds[upper]}
        changes = {name: losses[name][kind] - losses[name][chosen[name]] for name, kind in types.items()}
        of_kinds = [sum(change for name, change in changes.items() if part in name) for part in ("q_p", "up_p", "emb")]
        error = prediction_error(sensitivity) * math.hypot(*changes.values(), *of_kinds)
        if room.taken({**chosen, **types}) <= room.bytes and sum(changes.values()) <= error:
            pairs.append(Proposal(types, sum(changes.values()), error))
    best = max(pairs, key=lambda one: one.worth)

    assert best.types in [one.types for one in proposals(sensitivity, room, chosen)]


def test_predictions_that_are_never_off_leave_nothing_to_measure() -> None:
    sensitivity, room, chosen = made_up(0, factor=1.0)

    assert not [one for one in proposals(sensitivity, room, chosen) if one.cost > 0]


def test_a_swap_is_worth_what_it_gains_on_average() -> None:
    random = Random(0)
    drawn = [max(0.0, -random.gauss(0.2, 0.5)) for _ in range(200_000)]

    assert Proposal({}, 0.2, 0.5).worth == pytest.approx(sum(drawn) / len(drawn), rel=0.02)
    assert Proposal({}, -0.2, 0.0).worth == pytest.approx(0.2)
