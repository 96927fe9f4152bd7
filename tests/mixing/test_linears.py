"""Linears of blocks that were not rounded to every type: what is estimated is near what rounding them gives."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr

from slmquant.calib.calibration import FreshCalibration
from slmquant.mixing.candidates import Candidates, correct_
from slmquant.mixing.curvature import curvatures
from slmquant.mixing.extension import representatives
from slmquant.mixing.linears import round_linears
from slmquant.mixing.sensitivity import fitting_types, rounding_of
from slmquant.model.computing.modes import FLOAT32
from slmquant.model.discovery.relations import discover
from slmquant.model.running.trial import Trial
from slmquant.progress import Silent
from slmquant.testing.tiny import VOCABULARY, tiny

SIDES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 9}
WINDOWS = torch.randint(VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(3))


def tried(every: int, method: str = "slmq", types: list[str] | None = None) -> Candidates:
    """Candidates of all linears of a tiny model."""
    model = tiny("llama", **SIDES)
    relations, rounding = discover(model), rounding_of(method)
    statistics = FreshCalibration(model, WINDOWS, torch.float32, Silent()).statistics(relations, rounding.needs)
    costs = curvatures(model, relations, WINDOWS, Silent())
    fitting = fitting_types(model, relations, method, "paper")
    given = fitting if types is None else dict.fromkeys(fitting, types)
    with torch.no_grad():
        trial = Trial(model, WINDOWS, FLOAT32)
        found = round_linears(model, relations, rounding, given, statistics, costs, trial, Silent(), every=every)
    assert not costs  # they take memory
    return found


@pytest.fixture(scope="module")
def whole() -> Candidates:
    return tried(1)


def test_where_every_block_is_rounded_to_every_type_nothing_is_estimated(whole: Candidates) -> None:
    """The oracle: the blocks that are rounded in full have the same losses whichever path leads there."""
    some = tried(4)
    chosen = representatives({name: list(kinds) for name, kinds in whole.losses.items()}, blocks(), 4)

    assert whole.error is None
    assert some.error is not None and 0 < some.error < 0.5
    assert some.losses.keys() == whole.losses.keys()
    assert 0 < len(chosen) < len(whole.losses)
    for name in chosen:
        assert some.losses[name] == whole.losses[name]


def test_estimates_are_near_what_rounding_gives(whole: Candidates) -> None:
    some = tried(4)
    pairs = [(some.losses[name][kind], loss) for name, losses in whole.losses.items() for kind, loss in losses.items()]
    guesses, found = torch.tensor(pairs).T

    assert spearmanr(guesses, found).statistic > 0.99
    assert float((guesses / found).log().square().mean().sqrt()) < 0.2


def test_every_linear_has_codes_that_its_class_is_measured_with() -> None:
    some = tried(4)
    assert some.samples.keys() == some.losses.keys()
    model = tiny("llama", **SIDES)
    before = dict(some.losses["model.layers.2.mlp.up_proj"])
    with torch.no_grad():
        classes = correct_(some, discover(model), Trial(model, WINDOWS, FLOAT32), Silent())

    assert 0.5 < classes["up_proj"].factor < 2
    after = some.losses["model.layers.2.mlp.up_proj"]
    assert after["Q8_0"] / before["Q8_0"] == pytest.approx(classes["up_proj"].factor)


def test_an_error_that_is_too_large_to_predict_is_measured_and_measures_no_class() -> None:
    found = tried(1, "rtn", ["Q8_0", "W2A16g32"])

    assert {kind for _, kind in found.measured} == {"W2A16g32"}
    for sample in found.samples.values():
        assert sample.codes.bits == 8


def blocks() -> tuple[str, ...]:
    return discover(tiny("llama", **SIDES)).blocks
