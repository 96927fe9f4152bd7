"""The contract of methods: every file of the package, on tiny models, at every scheme it does not refuse."""

import pytest
import torch

from slmquant import methods
from slmquant.calib.calibration import FreshCalibration, NoCalibration
from slmquant.calib.capture import capture
from slmquant.calib.statistics import Rescaled
from slmquant.errors import RefusedError, UnknownNameError
from slmquant.methods._base import Work
from slmquant.model.relations import discover
from slmquant.progress import Silent
from slmquant.quantize import QuantizedModel, quantize_
from slmquant.schemes import parse
from slmquant.testing.tiny import VOCABULARY, tiny

SCHEMES = ("W8A8", "W4A8", "W4A16g16", "W3A16g7-asym", "W8A8-static", "W8A16-tensor", "W4A16g16E8", "W16A8", "W2A16")
ARCHITECTURES = ("llama", "qwen3", "gpt2", "gemma3_text", "opt", "gpt_neox", "phi3")


def windows(samples: int = 6, length: int = 24) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(1))


def quantized(name: str, scheme: str, architecture: str = "llama") -> QuantizedModel:
    model = tiny(architecture)

    return quantize_(model, name, parse(scheme), FreshCalibration(model, windows(), torch.float32, Silent()))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", [*methods.names(), "smoothquant+gptq"])
def test_every_method_quantizes_or_says_why_not(name: str, scheme: str) -> None:
    recipe = methods.load(name)
    if recipe.refusal(parse(scheme)) is not None:
        with pytest.raises(RefusedError, match=scheme):
            quantized(name, scheme)
        return
    result = quantized(name, scheme)

    logits = result.model(windows(2)).logits
    assert torch.isfinite(logits).all()
    for weight in result.weights.values():
        low, high = (
            (-(2 ** (weight.bits - 1)), 2 ** (weight.bits - 1) - 1)
            if weight.zero_point is None
            else (0, 2**weight.bits - 1)
        )
        assert int(weight.codes.min()) >= low
        assert int(weight.codes.max()) <= high
        assert (weight.scale > 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", [name for name in methods.names() if name != methods.REFERENCE])
def test_eight_bits_barely_change_any_architecture(name: str, architecture: str) -> None:
    model = tiny(architecture)
    before = model(windows(2)).logits.log_softmax(-1)
    try:
        after = quantized(name, "W8A8", architecture).model(windows(2)).logits.log_softmax(-1)
    except RefusedError as refusal:
        pytest.skip(str(refusal))

    divergence = (before.exp() * (before - after)).sum(-1).detach()
    assert float(divergence.mean()) < 0.02


@pytest.mark.parametrize("name", [name for name in methods.names() if name != methods.REFERENCE])
def test_same_input_same_codes(name: str) -> None:
    first, second = quantized(name, "W4A16g16"), quantized(name, "W4A16g16")

    for linear, weight in first.weights.items():
        assert torch.equal(weight.codes, second.weights[linear].codes)


def test_tied_stays_tied() -> None:
    result = quantized("rtn", "W4A16g16E8")

    embedding, head = result.model.get_input_embeddings(), result.model.get_output_embeddings()
    assert embedding.weight.data_ptr() == head.weight.data_ptr()
    assert sum(name in result.embeddings for name in result.weights) == 1


def test_linears_of_one_input_share_its_quantizer() -> None:
    attention = quantized("rtn", "W8A8").model.model.layers[0].self_attn

    assert attention.q_proj.inputs is attention.k_proj.inputs is attention.v_proj.inputs
    assert attention.o_proj.inputs is not attention.q_proj.inputs


def test_a_combination_rounds_as_its_last_part() -> None:
    combined = methods.load("smoothquant+gptq")

    assert combined.transforms == methods.load("smoothquant").transforms
    assert combined.rounding == methods.load("gptq").rounding
    assert combined.needs == {"range", "hessian"}


class TestRefusals:
    def test_an_unknown_method_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown method 'gtpq'\. Did you mean 'gptq'"):
            methods.load("gtpq")

    def test_a_part_without_transform_adds_nothing(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown transform 'rtn'"):
            methods.load("rtn+gptq")

    def test_a_group_larger_than_the_input_is_named(self) -> None:
        with pytest.raises(RefusedError, match=r"group size 4096 is larger than the \d+ inputs of 'model"):
            quantized("rtn", "W4A16g4096")


class TestStatistics:
    @pytest.mark.parametrize("name", ["smoothquant", "smooth_rms"])
    def test_smoothing_transforms_them_as_it_transforms_the_inputs(self, name: str) -> None:
        """Captured after dividing the inputs, or divided after capturing: the same."""
        model = tiny("llama")
        relations = discover(model)
        before = capture(model, relations, windows(), {"hessian"}).statistics
        recipe = methods.load(name)
        transformed = recipe.transforms[0].apply_(Work(model, relations, parse("W8A8"), NoCalibration()), before)
        after = capture(model, relations, windows(), {"hessian"}).statistics

        assert isinstance(transformed, Rescaled)
        for group in relations.groups:
            linear = group.linears[0]
            assert torch.allclose(transformed[linear].absmax, after[linear].absmax, rtol=1e-4)
            assert torch.allclose(transformed[linear].rms, after[linear].rms, rtol=1e-4)
            assert torch.allclose(transformed[linear].hessian, after[linear].hessian, rtol=1e-3, atol=1e-5)
            assert torch.allclose(transformed[linear].first, after[linear].first, rtol=1e-3, atol=1e-5)

    def test_the_hessian_is_the_mean_of_outer_products(self) -> None:
        model = tiny("llama")
        relations = discover(model)
        seen = []
        name = relations.groups[0].linears[0]
        hook = model.get_submodule(name).register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        model(windows())
        hook.remove()
        x = seen[0].flatten(0, 1)

        found = capture(model, relations, windows(), {"hessian"}).statistics[name]

        assert torch.allclose(found.hessian, x.T @ x / len(x), atol=1e-5)
        assert torch.equal(found.absmax, x.abs().amax(0))
        assert torch.allclose(found.rms, x.square().mean(0).sqrt())
        assert torch.equal(found.first, seen[0][:, 0])
