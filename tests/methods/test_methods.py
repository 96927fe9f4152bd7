"""The contract of methods: every file of the package, on tiny models, at every scheme it does not refuse."""

import pytest
import torch

from slmquant import methods
from slmquant.calib.calibration import NoCalibration
from slmquant.calib.capture import capture
from slmquant.calib.statistics import Rescaled
from slmquant.errors import RefusedError, UnknownNameError
from slmquant.methods.common.work import Work
from slmquant.model.discovery.relations import discover
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens, check_method, combinations, quantized
from slmquant.testing.tiny import tiny
from tests.alike_methods import ORIGINALS, VARIANTS
from tests.narrowed import present

SCHEMES = (
    *("W8A8", "W4A8", "W4A16g16", "W3A16g7-asym", "W8A8-static", "W8A16-tensor", "W4A16g16E8", "W16A8", "W2A16"),
    *("W1.58A16g16", "FP8", "NF4g16-dq", "MXFP4", "NVFP4A16", "W4AFP8", "W4A4KV4", "W4A16KV2c", "Q4_0", "Q4_K"),
)
"""Numbers of every kind; group sizes that the tiny models' 40 inputs divide, and some that they do not."""

FEW = ("W8A8", "W4A16g16", "W3A16g7-asym", "NF4g16-dq", "W4A4KV4")
"""Activations rounded or not, groups that divide the inputs or not, a zero point, uneven steps, a quantized cache."""

PAIRS = [
    *((name, scheme) for name in ORIGINALS for scheme in SCHEMES),
    *((name, scheme) for name in VARIANTS for scheme in FEW),
]


@pytest.mark.usefixtures("few_steps", "known_relations")
@pytest.mark.parametrize(("name", "scheme"), PAIRS)
def test_every_method_keeps_its_contract_at_every_scheme(name: str, scheme: str) -> None:
    outcome = check_method(name, "llama", scheme)

    assert (outcome.refusal is None) == (methods.load(name).refusal(parse(scheme)) is None)


@pytest.mark.usefixtures("few_steps", "known_relations")
@pytest.mark.parametrize("name", combinations())
def test_same_input_same_codes(name: str) -> None:
    scheme = next(each for each in SCHEMES if methods.load(name).refusal(parse(each)) is None)
    first, second = quantized(name, scheme), quantized(name, scheme)

    for linear, weight in first.weights.items():
        assert torch.equal(weight.codes, second.weights[linear].codes)
        assert torch.equal(weight.dequantize(), second.weights[linear].dequantize())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", combinations())
def test_every_method_keeps_its_contract_with_all_its_steps(name: str, scheme: str) -> None:
    check_method(name, "llama", scheme)


def test_tied_stays_tied() -> None:
    result = quantized("rtn", "W4A16g16E8")

    embedding, head = result.model.get_input_embeddings(), result.model.get_output_embeddings()
    assert embedding.get_parameter("weight").data_ptr() == head.get_parameter("weight").data_ptr()
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


@pytest.mark.parametrize(
    ("name", "says"),
    [("awq+gptq", "AWQ"), ("quarot+rtn", "QuaRot"), ("smoothquant+gptq", None), ("lqer+gptq", None), ("awq", None)],
)
def test_a_combination_says_whose_rounding_it_leaves_out(name: str, says: str | None) -> None:
    """AWQ clips and QuaRot has its GPTQ; plain rounding is nobody's own."""
    about = [note for note in quantized(name, "W8A8").notes if "its own way to round" in note]

    assert [note.split()[0] for note in about] == ([] if says is None else [says])


class TestRefusals:
    def test_an_unknown_method_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown method 'gtpq'\. Did you mean 'gptq'"):
            methods.load("gtpq")

    def test_a_part_without_transform_adds_nothing(self) -> None:
        with pytest.raises(RefusedError, match="'rtn' only rounds, as the last method does"):
            methods.load("rtn+gptq")

    def test_a_weight_takes_one_branch(self) -> None:
        with pytest.raises(RefusedError, match=r"LLM.int8\(\) and LQER both add a branch"):
            methods.load("llm_int8+lqer")

    def test_a_group_larger_than_the_input_is_named(self) -> None:
        with pytest.raises(RefusedError, match=r"group size 4096 is larger than the \d+ inputs of 'model"):
            quantized("rtn", "W4A16g4096")

    def test_embeddings_are_grouped_as_well(self) -> None:
        with pytest.raises(
            RefusedError, match=r"group size 4096 is larger than the \d+ inputs of 'model.embed_tokens'"
        ):
            quantized("rtn", "W16A16g4096E8")

    @pytest.mark.parametrize(("name", "share"), [("olmoe", "78"), ("llama", None)])
    def test_what_lies_in_no_linear_is_named_with_its_share(self, name: str, share: str | None) -> None:
        notes = quantize_(tiny(name), "rtn", parse("W4A16g8"), NoCalibration()).notes
        if share is None:
            assert notes == ()
        else:
            assert len(notes) == 1
            assert notes[0].startswith(f"{share}.")
            assert "'model.layers.0.mlp.experts.gate_up_proj'" in notes[0]


class TestStatistics:
    @pytest.mark.parametrize("name", ["smoothquant", "smooth_rms"])
    def test_smoothing_transforms_them_as_it_transforms_the_inputs(self, name: str) -> None:
        """Captured after dividing the inputs, or divided after capturing: the same."""
        model = tiny("llama")
        relations = discover(model)
        before = capture(model, relations, calibration_tokens(), {"hessian"}).statistics
        recipe = methods.load(name)
        transformed = recipe.transforms[0].apply_(Work(model, relations, parse("W8A8"), NoCalibration()), before)
        after = capture(model, relations, calibration_tokens(), {"hessian"}).statistics

        assert isinstance(transformed, Rescaled)
        for group in relations.groups:
            linear = group.linears[0]
            assert torch.allclose(transformed[linear].absmax, after[linear].absmax, rtol=1e-4)
            assert torch.allclose(transformed[linear].rms, after[linear].rms, rtol=1e-4)
            assert torch.allclose(
                present(transformed[linear].hessian), present(after[linear].hessian), rtol=1e-3, atol=1e-5
            )
            assert torch.allclose(
                present(transformed[linear].first), present(after[linear].first), rtol=1e-3, atol=1e-5
            )

    def test_tokens_in_one_row_have_a_first_as_well(self) -> None:
        """OPT gives its feed-forward layers `(tokens, hidden)`."""
        model = tiny("opt")
        seen = []
        name = "model.decoder.layers.0.fc1"
        hook = model.get_submodule(name).register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        model(calibration_tokens())
        hook.remove()
        statistics = capture(model, discover(model), calibration_tokens(), {"range"}).statistics

        assert seen[0].ndim == 2
        assert torch.allclose(
            present(statistics[name].first), seen[0].unflatten(0, calibration_tokens().shape)[:, 0], atol=1e-6
        )

    def test_the_hessian_is_the_mean_of_outer_products(self) -> None:
        model = tiny("llama")
        relations = discover(model)
        seen = []
        name = relations.groups[0].linears[0]
        hook = model.get_submodule(name).register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        model(calibration_tokens())
        hook.remove()
        x = seen[0].flatten(0, 1)

        found = capture(model, relations, calibration_tokens(), {"hessian"}).statistics[name]

        assert torch.allclose(present(found.hessian), x.T @ x / len(x), atol=1e-5)
        assert torch.equal(found.absmax, x.abs().amax(0))
        assert torch.allclose(found.rms, x.square().mean(0).sqrt())
        assert torch.equal(present(found.first), seen[0][:, 0])
