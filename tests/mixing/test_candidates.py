"""Predicted losses, and the guard against cliffs: large errors are measured, and stay what was measured."""

from __future__ import annotations

import pytest
import torch

from slmquant.methods.rtn import Nearest
from slmquant.mixing import linears
from slmquant.mixing.candidates import Candidates, correct_
from slmquant.mixing.curvature import curvatures
from slmquant.mixing.linears import round_linears
from slmquant.model.computing.modes import FLOAT32
from slmquant.model.discovery.relations import discover
from slmquant.model.running.trial import Trial
from slmquant.progress import Silent
from slmquant.testing.tiny import VOCABULARY, tiny


@torch.no_grad()
@pytest.mark.parametrize("bound", [0.0, 0.1, 10.0])
def test_errors_beyond_the_bound_are_measured(bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of outputs: 2 bits are off by more than a tenth, 8 bits by less."""
    monkeypatch.setattr(linears, "LARGEST_ERROR", bound)
    model = tiny("llama", hidden_size=32, intermediate_size=64)
    relations = discover(model)
    windows = torch.randint(VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(0))
    costs = curvatures(model, relations, windows, Silent())
    trial = Trial(model, windows, FLOAT32)
    types = {name: ["W2A16g32", "Q8_0"] for name in relations.linears}
    found: Candidates = round_linears(model, relations, Nearest(), types, {}, costs, trial, Silent(), keep=True)
    expected = {0.0: {"W2A16g32", "Q8_0"}, 0.1: {"W2A16g32"}, 10.0: set[str]()}[bound]

    assert found.measured == {(name, kind) for name in relations.linears for kind in expected}
    before = {name: dict(several) for name, several in found.losses.items()}
    correct_(found, relations, trial, Silent())
    for name, kind in found.measured:
        measured = float(trial.divergence({name: found.kept[name][kind]}).mean())
        assert found.losses[name][kind] == before[name][kind] == pytest.approx(measured, rel=1e-6)
