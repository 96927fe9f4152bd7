"""Scales move where they are told to, and nothing moves where they do not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.rewriting.rescale import scale_group_, scale_link_, shared_factors, shift_group_
from slmquant.model.structure import ChannelLink, InputGroup, Relations
from slmquant.testing.tiny import tiny


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny("llama")


@pytest.fixture
def relations(model: PreTrainedModel) -> Relations:
    return discover(model)


def received(model: PreTrainedModel, name: str) -> Tensor:
    """What a linear receives for three tokens, `(3, in)`."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=torch.tensor([[3, 1, 4]]))
    handle.remove()
    return seen[0][0]


def factors(count: int) -> Tensor:
    return torch.linspace(0.25, 4.0, count)


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2", "nemotron"])
def test_what_the_linears_of_a_group_receive_is_divided_by_the_factors(name: str) -> None:
    model = tiny(name)
    relations = discover(model)
    group = relations.groups[0]
    before = received(model, group.linears[0])
    scale = factors(before.shape[-1])
    scale_group_(model, relations, group, scale)
    torch.testing.assert_close(received(model, group.linears[0]), before / scale)


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "opt", "lfm2"])
def test_what_the_target_of_a_link_receives_is_divided_by_the_factors(name: str) -> None:
    model = tiny(name)
    link = discover(model).links[0]
    before = received(model, link.target)
    scale = shared_factors(link, factors(before.shape[-1]))
    scale_link_(model, link, scale)
    torch.testing.assert_close(received(model, link.target), before / scale)


def test_shared_factors_are_the_largest_of_those_that_share_a_row() -> None:
    link = ChannelLink("v_proj", "o_proj", (0, 1, 0, 1, 4, 3))
    shared = shared_factors(link, torch.tensor([1.0, 5.0, 2.0, 4.0, 3.0, 6.0]))
    assert shared.tolist() == [2.0, 5.0, 2.0, 5.0, 3.0, 6.0]


def test_rows_that_nothing_follows_are_left_alone() -> None:
    model = tiny("phi3")
    link = discover(model).links[0]
    weight = weight_at(model, link.source)
    before = weight.detach().clone()
    scale_link_(model, link, shared_factors(link, factors(40)))
    assert torch.equal(weight[:60], before[:60])  # queries and keys
    assert not torch.equal(weight[60:], before[60:])


def test_a_scale_and_its_inverse_cancel(model: PreTrainedModel, relations: Relations) -> None:
    before = copy.deepcopy(model.state_dict())
    scale = 2.0 ** torch.arange(-20, 20).float()  # exact in binary
    scale_group_(model, relations, relations.groups[0], scale)
    scale_group_(model, relations, relations.groups[0], 1 / scale)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def stranger(relations: Relations) -> InputGroup:
    return InputGroup(relations.groups[0].linears[:1], relations.groups[0].norm)


Change = Callable[[PreTrainedModel, Relations], None]
MISTAKES: dict[str, tuple[Change, str]] = {
    "a factor too few": (
        lambda m, r: scale_group_(m, r, r.groups[0], factors(39)),
        r"shape \(39,\) do not fit the input channels of model.layers.0.self_attn.q_proj; expected \(40,\)",
    ),
    "a factor of 0": (
        lambda m, r: scale_group_(m, r, r.groups[0], torch.zeros(40)),
        "must be positive and finite",
    ),
    "a factor that is no number": (
        lambda m, r: scale_group_(m, r, r.groups[0], torch.full((40,), torch.nan)),
        "must be positive and finite",
    ),
    "a group without a norm": (
        lambda m, r: scale_group_(m, r, r.groups[1], factors(40)),
        "input of model.layers.0.self_attn.o_proj has no norm",
    ),
    "a group of another model": (
        lambda m, r: scale_group_(m, r, stranger(r), factors(40)),
        "not among the relations given",
    ),
    "a shift without biases": (
        lambda m, r: shift_group_(m, r, r.groups[0], torch.ones(40)),
        r"model.layers.0.input_layernorm has no bias, so it cannot take a shift",
    ),
    "a link with a factor too many": (
        lambda m, r: scale_link_(m, r.links[0], factors(41)),
        r"shape \(41,\) do not fit the input channels of model.layers.0.self_attn.o_proj",
    ),
    "different factors for one row": (
        lambda m, r: scale_link_(m, r.links[0], factors(40)),
        "differ between input channels of model.layers.0.self_attn.o_proj that follow one row",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    mistake: str, model: PreTrainedModel, relations: Relations
) -> None:
    before = copy.deepcopy(model.state_dict())
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        change(model, relations)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_a_shift_is_taken_from_the_input_and_not_from_the_output(name: str) -> None:
    model = tiny(name)
    relations = discover(model)
    group = relations.groups[0]
    before, logits = received(model, group.linears[0]), model(torch.tensor([[3, 1, 4]])).logits.detach()
    shift = torch.linspace(-1.0, 1.0, before.shape[1])
    shift_group_(model, relations, group, shift)

    assert torch.allclose(received(model, group.linears[0]), before - shift, atol=1e-5)
    assert torch.allclose(model(torch.tensor([[3, 1, 4]])).logits, logits, atol=1e-4)
    with pytest.raises(ValueError, match=r"shape \(3,\) does not fit"):
        shift_group_(model, relations, group, torch.ones(3))
