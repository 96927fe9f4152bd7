"""Norm tweaking brings the spread of a block's outputs back, by its norms alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.calib.calibration import FreshCalibration
from slmquant.methods.common.work import Work
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.methods.norm_tweaking import NormTweaking, spread_difference
from slmquant.model.discovery.relations import discover
from slmquant.model.running.block_walk import CurrentBlock, walk
from slmquant.progress import Silent
from slmquant.schemes import parse
from slmquant.testing.tiny import VOCABULARY, tiny

PART = NormTweaking(lr=3e-3, passes=10)


def windows() -> Tensor:
    return torch.randint(0, VOCABULARY, (24, 24), generator=torch.Generator().manual_seed(1))


def first_block(model: PreTrainedModel) -> tuple[CurrentBlock, Work]:
    relations = discover(model)
    work = Work(model, relations, parse("W2A16g16"), FreshCalibration(model, windows(), torch.float32, Silent()))
    return next(walk(model, relations, windows(), torch.float32, wants_exact="outputs")), work


def difference(block: CurrentBlock) -> float:
    assert block.exact_outputs is not None
    with torch.no_grad():
        return float(spread_difference(block.run(block.inputs), block.exact_outputs))


def test_the_loss_is_the_papers_channel_by_channel() -> None:
    generator = torch.Generator().manual_seed(0)
    found, wanted = (torch.randn(3, 5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = 0.0
    for channel in range(4):
        q, f = found[..., channel].flatten(), wanted[..., channel].flatten()
        variance = ((f - f.mean()) ** 2).mean()
        expected += float((q.mean() - f.mean()).abs() / variance.sqrt()) / 4
        expected += float((((q - q.mean()) ** 2).mean() - variance).abs() / variance) / 4

    assert float(spread_difference(found, wanted)) == pytest.approx(expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text", "mamba"])
def test_outputs_are_spread_more_nearly_as_before(architecture: str) -> None:
    block, work = first_block(tiny(architecture))
    untweaked, untweaked_work = first_block(tiny(architecture))
    replace(PART, lr=0.0).solve_(untweaked, untweaked_work)
    PART.solve_(block, work)

    assert difference(block) < 0.99 * difference(untweaked)


def test_codes_are_those_of_the_rounding_and_only_norms_change() -> None:
    model = tiny("gpt2")
    expected = SequentialGptq().solve_(*first_block(copy.deepcopy(model)))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    block, work = first_block(model)
    found = PART.solve_(block, work)

    assert all(torch.equal(found[name].codes, expected[name].codes) for name in expected)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    norms = {f"transformer.h.0.{norm}.{kind}" for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    assert changed == norms | {f"{name}.weight" for name in expected}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_block_without_gains_is_rounded_all_the_same() -> None:
    block, work = first_block(tiny("olmo"))

    assert set(PART.solve_(block, work)) == {name for group in block.groups for name in group.linears}


def test_a_loss_that_is_not_finite_leaves_the_norms_alone_and_says_so() -> None:
    model = tiny("llama")
    block, work = first_block(model)
    assert block.exact_outputs is not None
    block.exact_outputs[0, 0, 0] = torch.inf
    norm = model.model.layers[0].input_layernorm.weight
    before = norm.clone()
    PART.solve_(block, work)

    assert torch.equal(norm, before)
    assert work.notes == ["model.layers.0: the loss was not finite; its norms were left as they were"]


def test_a_channel_that_hardly_varies_does_not_count_for_everything() -> None:
    wanted = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(0))
    wanted[..., 3] = 0.5
    found = wanted + 1e-3 * torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(1))

    assert float(spread_difference(found, wanted)) < 0.1
