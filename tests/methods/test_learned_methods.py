"""AutoRound and OmniQuant on tiny models: never worse than they began, repeatable, safe when a loss is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.calib.calibration import NoCalibration
from slmquant.core.affine import QuantizedTensor
from slmquant.methods.autoround import AutoRound, SignedGradient
from slmquant.methods.autoround_mse import SEARCH
from slmquant.methods.common.equivalent import equivalent_scales
from slmquant.methods.common.learning import Schedule, _divided
from slmquant.methods.common.work import Work
from slmquant.methods.omniquant import OmniQuant, OmniSettings, augmented, published, settings_of
from slmquant.model.computing.activations import ActivationQuantizer
from slmquant.model.computing.grids import grid_of
from slmquant.model.computing.linear import replace_linears_
from slmquant.model.discovery.float64 import computing_in_float64
from slmquant.model.discovery.relations import discover
from slmquant.model.running.block_walk import CurrentBlock, walk
from slmquant.schemes import parse
from slmquant.testing.preservation import logit_change
from slmquant.testing.tiny import VOCABULARY, tiny
from tests.narrowed import present

Solver = AutoRound | OmniQuant
SHORT = Schedule(iterations=12, batch=4, checks=2)
AUTOROUND = AutoRound(budgets={"fast": SignedGradient(SHORT)})
OMNIQUANT = OmniQuant(
    settings=lambda _budget, _scheme: OmniSettings(
        replace(SHORT, iterations=24), clip_lr=0.3, scale_lr=0.02, falls=True
    )
)
SOLVERS = pytest.mark.parametrize("solver", [AUTOROUND, OMNIQUANT], ids=["autoround", "omniquant"])


def windows() -> Tensor:
    return torch.randint(0, VOCABULARY, (16, 24), generator=torch.Generator().manual_seed(1))


def first_block(name: str, scheme: str, seed: int = 0) -> tuple[CurrentBlock, Work]:
    """The first block of a tiny model, with inputs that a quantized block before it might have given."""
    model = tiny(name)
    relations = discover(model)
    work = Work(model, relations, parse(scheme), NoCalibration(), seed=seed)
    block = next(walk(model, relations, windows(), torch.float32, wants_exact="outputs"))
    noise = torch.randn(block.inputs.shape, generator=torch.Generator().manual_seed(2))
    return replace(block, inputs=block.inputs + 0.05 * noise), work


@torch.no_grad()
def loss_with(codes: Mapping[str, QuantizedTensor], block: CurrentBlock, work: Work, targets: Tensor) -> float:
    """The block's distance from its targets on the windows that were set aside, with these codes in place."""
    plain = {name: work.model.get_submodule(name) for name in codes}
    spec = work.scheme.activations
    for group in block.groups:
        quantizer = None if spec is None else ActivationQuantizer(spec, torch.float32)
        replace_linears_(work.model, group.linears, [codes[name] for name in group.linears], quantizer, torch.float32)
    checked = _divided(len(block.inputs), SHORT)[1]
    found = (block.run(block.inputs[checked]) - targets[checked]).square().mean()
    for name, linear in plain.items():
        work.model.set_submodule(name, linear)
    return float(found)


def nearest(block: CurrentBlock, work: Work) -> dict[str, QuantizedTensor]:
    grid = grid_of(present(work.scheme.weights))
    return {name: grid.quantize(block.weight(name)) for group in block.groups for name in group.linears}


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *(("llama", scheme) for scheme in ("W3A16g16", "W4A4", "W2A16g7-asym", "W4A16-tensor", "W4A4-tensor")),
        *((name, scheme) for name in ("qwen3", "gpt2", "gemma3_text", "opt") for scheme in ("W4A4", "W2A16g7-asym")),
    ],
)
@SOLVERS
def test_the_loss_is_never_above_that_of_nearest_rounding(solver: Solver, name: str, scheme: str) -> None:
    block, work = first_block(name, scheme)
    targets = present(block.exact_outputs)
    if solver is OMNIQUANT and augmented(work.scheme):
        targets = (targets + block.run(block.inputs).detach()) / 2
    before = loss_with(nearest(block, work), block, work, targets)

    after = loss_with(solver.solve_(block, work), block, work, targets)

    assert after <= before * (1 + 1e-4)
    assert work.notes == []


@pytest.mark.parametrize("name", ["mamba", "olmoe", "lfm2", "bloom", "falcon-alibi"])
@SOLVERS
def test_unusual_blocks_learn_as_well(solver: Solver, name: str) -> None:
    block, work = first_block(name, "W2A16g16")
    before = loss_with(nearest(block, work), block, work, present(block.exact_outputs))

    assert loss_with(solver.solve_(block, work), block, work, present(block.exact_outputs)) < before


@pytest.mark.parametrize("scheme", ["W3A16g16", "W4A4", "W2A16g7-asym"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "olmoe"])
def test_autoround_from_searched_scales_is_never_worse_than_those(name: str, scheme: str) -> None:
    """Its start is what the searched scales give when weights are rounded to nearest."""
    block, work = first_block(name, scheme)
    solver = replace(AUTOROUND, search=SEARCH)
    begun = {linear: rounding.quantized() for linear, rounding in solver._roundings(block, work).items()}
    before = loss_with(begun, block, work, present(block.exact_outputs))
    unsearched = loss_with(nearest(block, work), block, work, present(block.exact_outputs))

    after = loss_with(solver.solve_(block, work), block, work, present(block.exact_outputs))

    assert after <= before * (1 + 1e-4)
    assert before != unsearched
    assert work.notes == []


def test_autoround_with_calibrated_activations() -> None:
    block, work = first_block("llama", "W4A8-static")
    codes = AUTOROUND.solve_(block, work)

    assert set(codes) == {name for group in block.groups for name in group.linears}


@SOLVERS
def test_a_loss_that_is_not_finite_stops_learning_and_says_so(solver: Solver) -> None:
    block, work = first_block("llama", "W4A4")
    checked = _divided(len(block.inputs), SHORT)[1]
    spoilt = torch.full_like(present(block.exact_outputs), torch.nan)
    spoilt[checked] = present(block.exact_outputs)[checked]
    before = {name: tensor.clone() for name, tensor in work.model.state_dict().items()}

    codes = solver.solve_(replace(block, exact_outputs=spoilt), work)

    assert len(work.notes) == 1
    assert work.notes[0].startswith("model.layers.0: the loss of step 1 was not finite")
    assert all(torch.equal(tensor, before[name]) for name, tensor in work.model.state_dict().items())
    for name, expected in nearest(block, work).items():
        assert torch.equal(codes[name].codes, expected.codes)


@SOLVERS
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(solver: Solver) -> None:
    first, again, other = (solver.solve_(*first_block("llama", "W2A16g16", seed)) for seed in (0, 0, 1))

    assert all(torch.equal(first[name].codes, again[name].codes) for name in first)
    assert all(torch.equal(first[name].scale, again[name].scale) for name in first)
    assert any(not torch.equal(first[name].scale, other[name].scale) for name in first)


@SOLVERS
def test_nothing_is_left_behind(solver: Solver) -> None:
    block, work = first_block("llama", "W4A4")
    modules = dict(work.model.named_modules())
    solver.solve_(block, work)

    assert all(module is modules[name] for name, module in work.model.named_modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in work.model.parameters())


@pytest.mark.parametrize("name", ["llama", "llama-bias", "qwen3", "gpt2", "gemma3_text", "opt", "phi3", "gpt_neox"])
def test_what_omniquant_moves_leaves_the_function_alone(name: str) -> None:
    found: list[bool] = []

    def rewrite_(model: PreTrainedModel) -> None:
        relations = discover(model)
        work = Work(model, relations, parse("W4A4"), NoCalibration(), dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        with computing_in_float64():
            for block in walk(model, relations, windows(), torch.float64, wants_exact="outputs"):
                for scale in equivalent_scales(block, work, alpha=0.5):
                    with torch.no_grad():
                        for parameter in scale.parameters:
                            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
                    found.append(scale.shift is not None)
                    scale.absorb_(model, relations)

    assert logit_change(tiny(name), rewrite_) < 1e-9
    assert len(found) >= 2
    assert any(found) == (name in ("gpt2", "opt", "gpt_neox"))


def test_omniquant_scales_only_where_activations_are_rounded() -> None:
    weight_only, both = first_block("llama", "W4A16g16"), first_block("llama", "W4A4")
    gains = [work.model.model.layers[0].input_layernorm.weight for _, work in (weight_only, both)]
    before = gains[0].clone()
    for block, work in (weight_only, both):
        OMNIQUANT.solve_(block, work)

    assert torch.equal(gains[0], before)
    assert not torch.equal(gains[1], before)


class TestRefusals:
    @pytest.mark.parametrize("name", ["autoround", "omniquant"])
    @pytest.mark.parametrize("scheme", ["NF4g64", "MXFP4", "W1.58A16g64"])
    def test_numbers_without_equal_steps(self, name: str, scheme: str) -> None:
        assert "equal steps" in (methods.load(name).refusal(parse(scheme)) or "")

    def test_omniquant_finds_scales_while_running(self) -> None:
        assert "drop -static" in (methods.load("omniquant").refusal(parse("W8A8-static")) or "")

    def test_omniquant_needs_something_that_absorbs_a_scale(self) -> None:
        relations = replace(discover(tiny("llama")), links=(), groups=())

        assert "this model has none" in (OMNIQUANT.refusal(parse("W4A4"), relations) or "")
        assert OMNIQUANT.refusal(parse("W4A16g16"), relations) is None


class TestOmniQuantPublished:
    """What the authors' scripts for LLaMA set: 40 epochs and the augmented loss for weights of two bits alone."""

    @pytest.mark.parametrize(
        ("scheme", "epochs", "augments"),
        [("W2A16g16", 40, True), ("W3A16g16", 20, False), ("W4A16g16", 20, False), ("W4A4", 20, False)],
    )
    def test_epochs_and_loss(self, scheme: str, epochs: int, augments: bool) -> None:
        settings = published(parse(scheme))

        assert settings.schedule.iterations == epochs * 128
        assert settings.schedule.batch == 1
        assert augmented(parse(scheme)) == augments
        assert settings_of("paper", parse(scheme)) == settings

    def test_more_is_moved_from_four_bit_activations_and_more_slowly(self) -> None:
        four, six = published(parse("W4A4")), published(parse("W6A6"))

        assert (four.alpha, four.scale_lr) == (0.75, 1e-3)
        assert (six.alpha, six.scale_lr) == (0.5, 5e-3)
