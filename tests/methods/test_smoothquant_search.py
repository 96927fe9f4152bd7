"""A strength for every input: what the search looks at, what it finds, and that it never loses more than nothing."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.statistics import InputStatistics
from slmquant.core.affine import Grid
from slmquant.core.smooth import smoothing_factors
from slmquant.methods.common.work import Work
from slmquant.methods.smoothquant_search import STRENGTHS, StrengthSearch, _Search, sampled_inputs
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.progress import Silent
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.preservation import logit_change
from slmquant.testing.tiny import tiny


def work_on(architecture: str, scheme: str) -> Work:
    model = tiny(architecture)
    relations = discover(model)
    with torch.no_grad():
        for norm in {group.norm for group in relations.groups if group.norm}:
            model.get_submodule(norm).get_parameter("weight")[[3, 17]] *= 30
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())
    return Work(model, relations, parse(scheme), calibration)


@torch.no_grad()
def search(work: Work) -> _Search:
    group = next(group for group in work.relations.groups if group.norm)
    statistics = work.calibration.statistics(work.relations, {"range"})
    first = group.linears[0]
    return _Search(work, group.linears, statistics[first], sampled_inputs(work)[first])


@torch.no_grad()
def by_hand(work: Work, factors: Tensor | None) -> float:
    """The loss as the module's equation says it, token by token."""
    group = next(group for group in work.relations.groups if group.norm)
    tokens = sampled_inputs(work)[group.linears[0]]
    s = torch.ones(tokens.shape[1]) if factors is None else factors
    shares = []
    for x in tokens:
        smooth = x / s
        scale = smooth.abs().max() / 127
        rounded = (smooth / scale).round().clamp(-128, 127) * scale
        lost, energy = torch.zeros(()), torch.zeros(())
        for name in group.linears:
            W = weight_at(work.model, name)
            lost += (Grid(8, scale_bits=32).quantize(W * s).dequantize() @ rounded - W @ x).square().sum()
            energy += (W @ x).square().sum()
        shares.append(lost / energy)
    return float(torch.stack(shares).mean())


def test_the_loss_is_the_one_of_the_equation() -> None:
    work = work_on("llama", "W8A8")
    found = search(work)
    factors = found.best()

    assert found.loss(None) == pytest.approx(by_hand(work, None), rel=1e-4)
    assert factors is not None
    assert found.loss(factors) == pytest.approx(by_hand(work, factors), rel=1e-4)


def test_the_factors_are_the_best_of_all_that_are_tried() -> None:
    work = work_on("llama", "W8A8")
    found, group = search(work), next(group for group in work.relations.groups if group.norm)
    statistics: InputStatistics = work.calibration.statistics(work.relations, {"range"})[group.linears[0]]
    largest = torch.stack([weight_at(work.model, name).abs().amax(0) for name in group.linears]).amax(0)
    tried = [
        found.loss(smoothing_factors(measure, largest, alpha))
        for measure in (statistics.absmax, statistics.rms)
        for alpha in STRENGTHS
    ]

    assert found.loss(found.best()) == min(tried)
    assert min(tried) < found.loss(None) / 2, "loud channels are what smoothing is for"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("scheme", ["W8A8", "W4A16g16", "W8A8-static"])
def test_the_function_stays(architecture: str, scheme: str) -> None:
    found = work_on(architecture, scheme)  # what is searched by is of the model in float32, as in use
    statistics = found.calibration.statistics(found.relations, {"range"})

    def rewrite_(model: PreTrainedModel) -> None:
        StrengthSearch().apply_(Work(model, found.relations, found.scheme, found.calibration), statistics)

    assert logit_change(work_on(architecture, scheme).model, rewrite_) < 1e-6


def test_nothing_is_smoothed_where_nothing_helps() -> None:
    """Weights and activations in full precision lose nothing, whatever the factors."""
    work = work_on("llama", "W16A16E8")
    statistics = work.calibration.statistics(work.relations, {"range"})
    assert dict(statistics).keys() == dict(StrengthSearch().apply_(work, statistics)).keys()
    for name in work.relations.linears:
        assert torch.equal(weight_at(work.model, name), weight_at(work_on("llama", "W8A8").model, name))


def test_the_same_seed_keeps_the_same_tokens() -> None:
    first, again = (sampled_inputs(work_on("llama", "W8A8")) for _ in range(2))

    assert all(torch.equal(first[name], again[name]) for name in first)
