"""The driver: what it gives to methods, and what it does with what they return."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pytest
import torch

from slmquant import methods
from slmquant.calib.calibration import FreshCalibration, NoCalibration
from slmquant.calib.statistics import InputStatistics, Statistic, Statistics
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.errors import DataError
from slmquant.methods.common.parts import Rounding, Transform
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.work import Work
from slmquant.methods.rtn import Nearest
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import discover
from slmquant.model.structure import Relations
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import Scheme, parse
from slmquant.schemes.scheme import WeightSpec
from slmquant.testing.method_contract import calibration_tokens, quantized
from slmquant.testing.tiny import tiny
from tests.narrowed import present


class Asked:
    """A calibration that remembers what it was asked for."""

    def __init__(self, fresh: FreshCalibration) -> None:
        self.fresh = fresh
        self.wanted: list[frozenset[Statistic]] = []

    @property
    def windows(self) -> torch.Tensor:
        return self.fresh.windows

    def further(self, count: int) -> torch.Tensor:
        return self.fresh.further(count)

    def statistics(self, relations: Relations, wanted: Collection[Statistic]) -> Statistics:
        self.wanted.append(frozenset(wanted))
        return self.fresh.statistics(relations, wanted)


@dataclass(frozen=True)
class Halving:
    """Not function-preserving: halves the first norm's gain, so that whoever captures afterwards sees it."""

    needs: frozenset[Statistic] = frozenset()
    recaptures: bool = True
    learns: bool = False

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        return None

    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        work.model.get_submodule(present(work.relations.groups[0].norm)).get_parameter("weight").mul_(0.5)
        work.notes.append("halved")
        return statistics


@dataclass(frozen=True)
class Remembering:
    """Rounds to nearest and keeps the statistics that it was given."""

    seen: list[InputStatistics]
    needs: frozenset[Statistic] = frozenset({"range"})

    def refusal(self, spec: WeightSpec) -> str | None:
        return None

    def round(self, weight: torch.Tensor, grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        self.seen.append(present(statistics))
        return grid.quantize(weight)


def driven(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, scheme: str = "W4A16g16") -> tuple[QuantizedModel, Asked]:
    monkeypatch.setattr(methods, "load", lambda name: recipe)
    model = tiny("llama")
    asked = Asked(FreshCalibration(model, calibration_tokens(), torch.float32, Silent()))
    return quantize_(model, "made-up", parse(scheme), asked), asked


def recipe(rounding: Rounding, *transforms: Transform) -> Recipe:
    return Recipe("made up", "", "", transforms, rounding)


def test_statistics_are_captured_anew_after_a_transform_that_recaptures(monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[InputStatistics] = []
    after: list[InputStatistics] = []
    driven(monkeypatch, recipe(Remembering(before)))
    result, asked = driven(monkeypatch, recipe(Remembering(after), Halving()))

    assert torch.allclose(after[0].absmax, before[0].absmax / 2, rtol=1e-5)
    assert asked.wanted == [], "what comes after the transform is nothing that cells could share"
    assert result.notes == ("halved",)


def test_a_method_that_needs_no_data_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _, asked = driven(monkeypatch, recipe(Nearest()))

    assert asked.wanted == []


def test_static_activation_scales_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = driven(monkeypatch, recipe(Nearest()), "W8A8-static")

    assert asked.wanted == [frozenset({"range"})]
    assert set(result.activation_scales) == set(result.weights)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "opt"])
def test_the_head_is_rounded_under_what_it_reads(architecture: str) -> None:
    """GPTQ's head has less error on the final hidden states than the nearest one, tied or not."""
    model = tiny(architecture)
    relations = discover(model)
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())
    head = present(relations.head_weight)
    H = present(calibration.statistics(relations, {"hessian"})[head].hessian)
    W = model.get_submodule(head).get_parameter("weight").detach().clone()

    losses = {}
    for method in ("gptq", "rtn"):
        error = quantized(method, "W4A16g16E3", architecture).weights[head].dequantize() - W
        losses[method] = float((error @ H * error).sum())

    assert losses["gptq"] < 0.9 * losses["rtn"]


def test_no_calibration_says_what_is_missing() -> None:
    with pytest.raises(DataError, match="needs hessian and was given no calibration text"):
        quantize_(tiny("llama"), "gptq", parse("W4A16g16"), NoCalibration())


@pytest.mark.usefixtures("few_steps", "known_relations")
def test_codes_cover_every_linear_whoever_made_them() -> None:
    model = tiny("llama")
    names = set(discover(model).linears)
    solvers: Mapping[str, Recipe] = {
        name: methods.load(name) for name in methods.names() if methods.load(name).rounds_blocks
    }

    assert solvers, "there are methods that round whole blocks"
    for name in solvers:
        assert set(quantized(name, "W4A8").weights) == names
