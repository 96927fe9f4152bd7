"""Scale tuning lowers the divergence, changes nothing but stored floats, and its gradients are those of the loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from slmquant import methods
from slmquant.calib.calibration import FreshCalibration
from slmquant.core.divergence import divergence_loss
from slmquant.errors import DataError, RefusedError
from slmquant.methods import scale_tuning
from slmquant.methods.common.changeable import Changeable, learning_weights
from slmquant.model.computing.modes import FLOAT32
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import discover
from slmquant.model.running.output_head import head_logits
from slmquant.model.running.trial import Trial
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens, further_tokens, quantized
from slmquant.testing.tiny import VOCABULARY, tiny

SCHEMES = ("W3A16g16E3", "W3A16g16-asym", "Q4_1", "W4A8", "IQ4_NL")
WINDOWS = torch.randint(VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(5))


def said(notes: tuple[str, ...]) -> tuple[float, float]:
    """Divergence on the gate before and after, from the note."""
    (note,) = [note for note in notes if note.startswith("scale tuning: divergence")]
    words = note.split()
    return float(words[-4]), float(words[-2])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_stored_floats_change_and_the_gate_gains(scheme: str) -> None:
    sides = {"hidden_size": 32, "intermediate_size": 64}
    before, after = _pair("rtn", scheme, **sides)
    for name, codes in after.weights.items():
        assert torch.equal(codes.codes, before.weights[name].codes)
        for part, value in codes.parts.items():
            assert value.dtype == before.weights[name].parts[part].dtype
            assert value.is_floating_point() or torch.equal(value, before.weights[name].parts[part])
    first, last = said(after.notes)
    assert last < first


def test_the_model_computes_with_the_codes_that_are_returned() -> None:
    result = quantized("gptq_mse+scale_tuning", "W4A16g16E4")
    for name, codes in result.weights.items():
        torch.testing.assert_close(result.model.get_submodule(name).get_parameter("weight"), codes.dequantize())


@pytest.mark.parametrize("scheme", ["W3A16g16E3", "Q4_1", "W4A8"])
def test_gradients_are_those_of_finite_differences(scheme: str) -> None:
    model = tiny("llama", hidden_size=32, intermediate_size=64)
    trial, relations = Trial(model, WINDOWS, FLOAT32), discover(model)
    result = quantize_(model, "rtn", parse(scheme), FreshCalibration(model, WINDOWS, torch.float32, Silent()))
    state = Changeable(result)
    with learning_weights(result) as weights:
        state.put_(weights)
        state.take_at_once_(weights, relations.linears)
        start = scale_tuning._backward(model, relations.blocks, trial, torch.arange(3), torch.float32)
        state.take_gradients_(weights)
        parameters = list(state.parameters())
        gradients = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        assert len(gradients) == len(parameters)
        length = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        step = 0.02
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.copy_(sign * step * gradient / length)
            state.put_(weights)
            values.append(scale_tuning._backward(model, relations.blocks, trial, torch.arange(3), torch.float32))
            state.take_gradients_(weights)
    slope = (values[0] - values[1]) / (2 * step)

    assert start > 0
    # Stored scales are rounded to float16, and activations to codes, so the loss has small steps.
    assert slope == pytest.approx(length, rel=0.15)


def test_a_loss_that_is_not_finite_ends_learning_and_keeps_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_tuning, "_backward", lambda *_: math.nan)
    before, after = _pair("rtn", "W3A16g16")

    assert any("not finite" in note for note in after.notes)
    for name, codes in after.weights.items():
        torch.testing.assert_close(codes.dequantize(), before.weights[name].dequantize())


def test_a_tuning_that_only_harms_is_undone() -> None:
    wild = scale_tuning.ScaleTuning({"fast": scale_tuning.Settings(windows=8, rate=3.0, batch_tokens=48, looks=2)})
    model = tiny("llama")
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent(), further_tokens())
    recipe = replace(methods.load("rtn"), tuning=wild)
    after = quantize_(model, "wild", parse("W4A16g16"), calibration, recipe=recipe)
    before = quantized("rtn", "W4A16g16")

    assert said(after.notes)[0] == said(after.notes)[1]
    for name, codes in after.weights.items():
        torch.testing.assert_close(codes.dequantize(), before.weights[name].dequantize())


def test_what_it_cannot_tune_is_refused_with_a_reason() -> None:
    for method, scheme, reason in (
        ("rtn+scale_tuning", "W4A4KV4g16", "keys and values"),
        ("lqer+scale_tuning", "W4A16g16", "branch"),
        ("rtn+scale_tuning", "MXFP4", "one scale for each token"),
    ):
        with pytest.raises(RefusedError, match=reason):
            quantized(method, scheme)
    with pytest.raises(RefusedError, match="write it last, as gptq\\+scale_tuning"):
        methods.load("scale_tuning+gptq")
    with pytest.raises(RefusedError, match="only rounds"):
        methods.load("rtn+gptq+scale_tuning")


def test_text_beside_that_of_calibration_is_needed() -> None:
    model = tiny("llama")
    few = FreshCalibration(model, calibration_tokens(), torch.float32, Silent(), further_tokens()[:20])
    with pytest.raises(DataError, match="72 windows are needed"):
        quantize_(model, "rtn+scale_tuning", parse("W4A16g16"), few)


def test_a_combination_rounds_as_the_method_before_it() -> None:
    combined, alone = methods.load("smoothquant+gptq_mse+scale_tuning"), methods.load("smoothquant+gptq_mse")
    assert (combined.rounding, combined.transforms, combined.remarks) == (
        alone.rounding, alone.transforms, alone.remarks,
    )  # fmt: skip
    assert combined.tuning is not None and combined.learns and not alone.learns


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_head_logits_are_those_of_the_model(architecture: str) -> None:
    model = tiny(architecture).eval()
    with torch.no_grad():
        states = model.get_decoder()(input_ids=WINDOWS, use_cache=False)[0]
        expected = model(input_ids=WINDOWS).logits
    found = head_logits(model, states[1].detach().requires_grad_())

    torch.testing.assert_close(found, expected[1], rtol=1e-4, atol=1e-5)
    assert found.requires_grad


def test_the_loss_is_the_divergence() -> None:
    p, q = torch.randn(4, 30), torch.randn(4, 30)
    expected = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum()

    torch.testing.assert_close(divergence_loss(p, q), expected)


def _pair(method: str, scheme: str, **sides: int) -> tuple[QuantizedModel, QuantizedModel]:
    """A tiny model quantized by a method, and by it with tuned scales."""
    results = []
    for name in (method, f"{method}+scale_tuning"):
        model = tiny("llama", **sides)
        calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent(), further_tokens())
        results.append(quantize_(model, name, parse(scheme), calibration))
    return results[0], results[1]
