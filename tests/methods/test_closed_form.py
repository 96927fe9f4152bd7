"""AWQ, HQQ, LQER and LLM.int8() on tiny models: what each promises beyond the contract of all methods."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.capture import capture
from slmquant.calib.statistics import InputStatistics, Statistics
from slmquant.core.affine import Grid
from slmquant.core.awq import output_loss
from slmquant.core.side import LowRank, OutlierColumns
from slmquant.methods.awq import ActivationAwareScaling, ClippedNearest
from slmquant.methods.common.work import Work
from slmquant.methods.hqq import HalfQuadratic
from slmquant.methods.lqer import LowRankCorrection
from slmquant.methods.smoothquant import Smoothing
from slmquant.methods.smoothquant_plus import SearchedSmoothing
from slmquant.model.computing.linear import QuantizedLinear
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.preservation import logit_change
from slmquant.testing.tiny import tiny
from tests.narrowed import present

SCHEME = "W3A16g16"
LOUD = (3, 17)


def loud_model(architecture: str = "llama") -> PreTrainedModel:
    """A tiny model whose norms make two channels loud, as those of trained models do."""
    model = tiny(architecture)
    relations = discover(model)
    with torch.no_grad():
        for norm in {group.norm for group in relations.groups if group.norm}:
            model.get_submodule(norm).get_parameter("weight")[list(LOUD)] *= 20
    return model


def quantized(method: str, scheme: str, architecture: str = "llama") -> QuantizedModel:
    model = loud_model(architecture)
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())
    return quantize_(model, method, parse(scheme), calibration)


@functools.cache
def statistics_of(architecture: str) -> Statistics:
    model = loud_model(architecture)
    return capture(model, discover(model), calibration_tokens(), {"range", "hessian"}).statistics


@torch.no_grad()
def lost(result: QuantizedModel) -> float:
    """Share of each linear's output that rounding lost, summed over the linears, in the units of the original."""
    original = loud_model()
    total = 0.0
    for group in result.groups:
        H = statistics_of("llama")[group.linears[0]].hessian
        assert H is not None
        for name in group.linears:
            W = weight_at(original, name)
            total += output_loss(result.weights[name].dequantize() - W, H) / output_loss(W, H)
    return total


def divergence(result: QuantizedModel) -> float:
    with torch.no_grad():
        before = loud_model()(calibration_tokens(2)).logits.log_softmax(-1)
        after = result.model(calibration_tokens(2)).logits.log_softmax(-1)
    return float((before.exp() * (before - after)).sum(-1).mean())


def work_on(model: PreTrainedModel, scheme: str) -> Work:
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())
    return Work(model, discover(model), parse(scheme), calibration)


class TestAwq:
    @pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3"])
    def test_scaling_leaves_the_function_alone(self, architecture: str) -> None:
        model = loud_model(architecture)
        before = copy.deepcopy(model.state_dict())

        def rewrite_(changed: PreTrainedModel) -> None:
            ActivationAwareScaling().apply_(work_on(changed, SCHEME), statistics_of(architecture))
            assert any(not torch.equal(value, before[name]) for name, value in changed.state_dict().items())

        assert logit_change(model, rewrite_) < 1e-6

    def test_statistics_follow_the_inputs(self) -> None:
        model = loud_model()
        work = work_on(model, SCHEME)
        said = ActivationAwareScaling().apply_(work, statistics_of("llama"))
        seen = capture(model, work.relations, calibration_tokens(), {"range", "hessian"}).statistics

        for group in work.relations.groups:
            first = group.linears[0]
            assert torch.allclose(said[first].absmean, seen[first].absmean, rtol=1e-3)
            assert torch.allclose(present(said[first].hessian), present(seen[first].hessian), rtol=1e-2, atol=1e-5)

    def test_less_is_lost_than_by_rounding_alone(self) -> None:
        nearest, awq = divergence(quantized("rtn", SCHEME)), divergence(quantized("awq", SCHEME))

        assert awq < 0.9 * nearest

    def test_without_weights_to_round_it_is_refused(self) -> None:
        reason = methods.load("awq").refusal(parse("W16A8"), discover(tiny("llama")))

        assert reason is not None
        assert "leaves in 16 bits" in reason

    def test_one_scale_for_a_tensor_is_not_clipped(self) -> None:
        W = weight_at(loud_model(), "model.layers.0.mlp.up_proj")
        inputs = statistics_of("llama")["model.layers.0.mlp.gate_proj"]
        grid = Grid(4, per_tensor=True)

        assert torch.equal(ClippedNearest().round(W, grid, inputs).codes, grid.quantize(W).codes)


class TestSmoothQuantPlus:
    @pytest.mark.parametrize("architecture", ["llama", "gpt2"])
    def test_scaling_leaves_the_function_alone(self, architecture: str) -> None:
        def rewrite_(changed: PreTrainedModel) -> None:
            SearchedSmoothing().apply_(work_on(changed, SCHEME), statistics_of(architecture))

        assert logit_change(loud_model(architecture), rewrite_) < 1e-6

    def test_less_is_lost_than_by_rounding_alone(self) -> None:
        nearest, smoothed = divergence(quantized("rtn", SCHEME)), divergence(quantized("smoothquant_plus", SCHEME))

        assert smoothed < nearest

    @pytest.mark.parametrize("architecture", ["llama", "gpt2"])
    def test_a_strength_is_judged_by_what_the_whole_model_loses(self, architecture: str) -> None:
        """Against models that are smoothed, rounded and run, one for each strength; the one searched is left as is."""
        alphas, model = (0.0, 0.4, 0.8), loud_model(architecture)
        windows = calibration_tokens()[:8]
        exact = model(windows).logits.log_softmax(-1).detach()
        expected = []
        for transforms in ((), *((Smoothing(alpha=alpha),) for alpha in alphas)):
            recipe, changed = replace(methods.load("rtn"), transforms=transforms), loud_model(architecture)
            calibration = FreshCalibration(changed, calibration_tokens(), torch.float32, Silent())
            found = quantize_(changed, "rtn", parse(SCHEME), calibration, recipe=recipe).model(windows).logits
            expected.append((exact.exp() * (exact - found.log_softmax(-1))).sum(-1).mean().item())
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

        unsmoothed, losses = SearchedSmoothing().losses(work_on(model, SCHEME), statistics_of(architecture), alphas)

        assert [unsmoothed, *losses.tolist()] == pytest.approx(expected, rel=0.02)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class TestLqer:
    def test_the_product_restores_what_was_lost(self) -> None:
        assert lost(quantized("lqer", SCHEME)) < 0.5 * lost(quantized("rtn", SCHEME))

    def test_each_linear_has_its_own_product_and_pays_for_it(self) -> None:
        plain, corrected = quantized("rtn", SCHEME), quantized("lqer", SCHEME)

        for name, weight in corrected.weights.items():
            assert isinstance(weight.side, LowRank)
            rank = min(32, *weight.codes.shape)
            assert (
                weight.stored_bits - plain.weights[name].stored_bits == 8 * rank * sum(weight.codes.shape) + 32 * rank
            )
        assert corrected.size.stored_bytes > plain.size.stored_bytes

    def test_it_corrects_whatever_rounded(self) -> None:
        recipe = methods.load("lqer+gptq")

        assert recipe.rounding == methods.load("gptq").rounding
        assert isinstance(recipe.correction, LowRankCorrection)
        assert lost(quantized("lqer+gptq", SCHEME)) < lost(quantized("gptq", SCHEME))

    def test_blocks_take_no_branch(self) -> None:
        reason = methods.load("lqer+gptq_sequential").refusal(parse(SCHEME))

        assert reason is not None
        assert "take no branch" in reason


class TestLlmInt8:
    def test_loud_channels_are_kept_the_same_for_all_who_read_them(self) -> None:
        result = quantized("llm_int8", "W8A8")

        for group in result.groups:
            loud = torch.nonzero(statistics_of("llama")[group.linears[0]].absmax > 6.0)[:, 0]
            for name in group.linears:
                side = result.weights[name].side
                if len(loud) == 0:
                    assert side is None
                else:
                    assert isinstance(side, OutlierColumns)
                    assert torch.equal(side.columns, loud)
        attention = result.model.model.layers[0].self_attn
        assert isinstance(attention.q_proj, QuantizedLinear)
        assert attention.q_proj.inputs is attention.v_proj.inputs

    @pytest.mark.parametrize("scheme", ["W8A8", "W8A8-static", "W8A4"])
    def test_less_is_lost_where_channels_are_loud(self, scheme: str) -> None:
        assert divergence(quantized("llm_int8", scheme)) < 0.5 * divergence(quantized("rtn", scheme))

    def test_it_says_so_where_no_channel_is_loud(self) -> None:
        model = tiny("llama")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.1)
        calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())

        result = quantize_(model, "llm_int8", parse("W8A8"), calibration)

        assert result.notes == ("LLM.int8(): no weight was given a branch in 16 bits",)

    def test_gptq_beside_it_ignores_the_channels_that_are_kept(self) -> None:
        """A column that the branch replaces must not take part in making up for errors."""
        assert lost(quantized("llm_int8+gptq", SCHEME)) < lost(quantized("llm_int8", SCHEME))


@pytest.mark.parametrize("rounding", [HalfQuadratic(), ClippedNearest()], ids=["hqq", "awq"])
@pytest.mark.parametrize("grid", [Grid(3, False, 16, 16), Grid(3, False, 7, 16), Grid(4, False)], ids=str)
def test_rows_may_be_permuted(rounding: HalfQuadratic | ClippedNearest, grid: Grid) -> None:
    generator = torch.Generator().manual_seed(0)
    W, X = torch.randn(6, 32, generator=generator), torch.randn(50, 32, generator=generator)
    magnitude = X.abs()
    inputs = InputStatistics(magnitude.amax(0), magnitude.mean(0), X.square().mean(0).sqrt(), X.T @ X / 50)
    order = torch.tensor([3, 1, 5, 0, 2, 4])

    whole, permuted = rounding.round(W, grid, inputs), rounding.round(W[order], grid, inputs)

    assert torch.equal(whole.codes[order], permuted.codes)
    assert torch.equal(whole.scale[order], permuted.scale)
