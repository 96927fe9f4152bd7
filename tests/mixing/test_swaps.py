"""Measured swaps: what gains beyond its error is accepted, luck is not, and the gate has the last word."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slmquant.calib.texts import GATE_WINDOWS, SWAP_WINDOWS, Texts
from slmquant.core.affine import QuantizedTensor
from slmquant.methods.rtn import Nearest
from slmquant.mixing.choose import Room
from slmquant.mixing.proposals import Proposal
from slmquant.mixing.swaps import Difference, Swaps, Tries, described
from slmquant.model.computing.modes import FLOAT32
from slmquant.model.discovery.relations import discover
from slmquant.model.running.trial import Trial, stored_weight
from slmquant.progress import Silent
from slmquant.testing.tiny import VOCABULARY, tiny

SIDES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "tie_word_embeddings": True}
BYTES = {"Q4_0": 18, "Q8_0": 34}


class Tried:
    """A tiny model whose weights are all in Q4_0, in Q8_0 or in both, and the swaps that were measured of it."""

    def __init__(self) -> None:
        model = tiny("llama", **SIDES)
        relations = discover(model)
        drawn = torch.randint(VOCABULARY, (GATE_WINDOWS + 8 + SWAP_WINDOWS, 16), generator=torch.Generator())
        gate, learning = drawn.split([GATE_WINDOWS, 8 + SWAP_WINDOWS])
        self.tries = Tries(model, relations, Nearest(), {}, Texts(drawn[:0], learning, gate), FLOAT32)
        self.names = [relations.embedding, *relations.linears]
        self.sizes = {name: {kind: stored_weight(model, name).numel() // 32 * BYTES[kind] for kind in BYTES}
                      for name in self.names}  # fmt: skip

    def measure(self, chosen: dict[str, str], *swaps: dict[str, str], spare: int = 1 << 20, most: int = 9) -> Swaps:
        """Measure swaps of a mixture; by default they always fit."""
        room = Room(self.sizes, 0, 0)
        room = Room(self.sizes, 0, room.taken(chosen) + spare)
        return self.tries.measure(chosen, [Proposal(swap, 0.0, 1.0) for swap in swaps], room, most, Silent())


@pytest.fixture(scope="module")
def tried() -> Tried:
    return Tried()


def test_more_bits_are_accepted_and_fewer_refused(tried: Tried) -> None:
    all_small = dict.fromkeys(tried.names, "Q4_0")
    some = tried.names[3]
    chosen = all_small | {some: "Q8_0"}
    better = dict.fromkeys(tried.names[4:], "Q8_0")
    found = tried.measure(chosen, {some: "Q4_0"}, better)

    assert [swap.accepted for swap in found.tried] == [False, True]
    assert found.tried[1].measured.mean < -2 * found.tried[1].measured.stderr
    assert found.gate is not None and found.gate.mean < 0
    assert found.types == better


def test_the_measured_difference_is_that_of_the_two_mixtures(tried: Tried) -> None:
    chosen = dict.fromkeys(tried.names, "Q4_0")
    found = tried.measure(chosen, {tried.names[0]: "Q8_0"})
    trial = Trial(tried.tries.model, tried.tries.texts.swaps, FLOAT32)
    codes: dict[str, QuantizedTensor] = tried.tries._round(chosen)
    before = trial.divergence(codes)
    after = trial.divergence(codes | tried.tries._round({tried.names[0]: "Q8_0"}))

    assert found.tried[0].measured.mean == pytest.approx(float((after - before).mean()), rel=1e-6)
    assert found.tried[0].measured.stderr == pytest.approx(float((after - before).std()) / 4, rel=1e-5)


def test_the_gate_gives_up_what_was_luck(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """On windows of the gate the accepted swap is made to cost something."""
    chosen = dict.fromkeys(tried.names, "Q4_0")
    better = dict.fromkeys(tried.names[1:], "Q8_0")
    real = Trial.divergence

    def unlucky(self: Trial, weights: dict[str, QuantizedTensor]) -> torch.Tensor:
        found = real(self, weights)
        return -found if len(self.windows) == GATE_WINDOWS else found

    monkeypatch.setattr(Trial, "divergence", unlucky)
    found = tried.measure(chosen, better)

    assert found.tried[0].accepted
    assert found.types == {}
    assert "given up" in found.notes[0]


def test_no_more_swaps_are_measured_than_asked_for_and_none_that_does_not_fit(tried: Tried) -> None:
    chosen = dict.fromkeys(tried.names, "Q4_0")
    ups = [{name: "Q8_0"} for name in tried.names[1:4]]

    assert len(tried.measure(chosen, *ups, most=2).tried) == 2
    assert not tried.measure(chosen, *ups, spare=0).notes


def test_the_model_is_left_as_it_was(tried: Tried) -> None:
    before = {name: parameter.clone() for name, parameter in tried.tries.model.named_parameters()}
    tried.measure(dict.fromkeys(tried.names, "Q4_0"), {tried.names[2]: "Q8_0"})

    assert all(torch.equal(before[name], now) for name, now in tried.tries.model.named_parameters())


def test_every_swap_is_told_with_its_error(tried: Tried) -> None:
    found = tried.measure(dict.fromkeys(tried.names, "Q4_0"), {tried.names[2]: "Q8_0"})

    assert found.notes[0].startswith("swaps of types: 1 measured, ")
    assert " from Q4_0 to Q8_0: " in found.notes[1]
    assert "±" in found.notes[1]
    assert Swaps.model_validate_json(found.model_dump_json()) == found


def test_long_swaps_are_told_in_short() -> None:
    old = {f"model.layers.0.{kind}": "Q4_0" for kind in "abcdef"}

    assert described(old, {"model.layers.0.a": "Q8_0"}) == "1 a from Q4_0 to Q8_0"
    assert described(old, dict.fromkeys(old, "Q8_0")).endswith("and 3 more such changes")


def test_a_difference_is_paired() -> None:
    before = torch.tensor([1.0, 2.0, 3.0, 4.0])

    assert Difference.of(before, before + 0.5) == Difference(mean=0.5, stderr=0.0)
