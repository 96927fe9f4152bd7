"""What was planted into activations is found where it was planted; what is measured is what the model computes."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.inspection.activations import Activations, inspect_activations
from slmquant.inspection.roles import roles_of
from slmquant.model.discovery.relations import discover
from slmquant.model.structure import Relations
from slmquant.progress import Silent
from slmquant.store.inspected import InputFacts
from slmquant.testing.tiny import VOCABULARY, tiny

SINK = 5
"""A token that becomes massive."""


def windows(samples: int = 6, length: int = 24) -> Tensor:
    ids = torch.randint(6, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(3))
    ids[:, 0] = SINK
    return ids


def measured(model: PreTrainedModel, relations: Relations | None = None, ids: Tensor | None = None) -> Activations:
    relations = relations or discover(model)
    given = windows() if ids is None else ids
    return inspect_activations(model, relations, roles_of(model, relations), given, str, Silent())


@functools.cache
def plain(name: str) -> tuple[PreTrainedModel, Relations, Activations]:
    model = tiny(name)
    relations = discover(model)
    return model, relations, measured(model, relations)


def read_by(found: Activations, name: str, layer: int = 0) -> InputFacts:
    return next(one for one in found.inputs if one.layer == layer and one.linears[0].endswith(name))


def gain(model: PreTrainedModel, name: str) -> nn.Parameter:
    return model.get_submodule(name).get_parameter("weight")


@torch.no_grad()
def received(model: PreTrainedModel, name: str, ids: Tensor) -> Tensor:
    """The input of a linear, as the model computes it."""
    kept: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _module, args: kept.append(args[0]))
    model(input_ids=ids, use_cache=False)
    hook.remove()
    return kept[0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_figures_of_inputs_are_those_of_what_the_model_computes(name: str) -> None:
    model, _, found = plain(name)
    for facts in found.inputs:
        x = received(model, facts.linears[0], windows()).flatten(0, 1).double()
        energies = x.square().sum(dim=1)

        assert facts.all.rms == pytest.approx(float(x.square().mean().sqrt()), rel=1e-4)
        assert facts.all.largest == pytest.approx(float(x.abs().max()), rel=1e-4)
        assert facts.all.kurtosis == pytest.approx(float(x.pow(4).mean() / x.square().mean() ** 2), rel=1e-3)
        first = float(energies.view(len(windows()), -1)[:, 0].sum() / energies.sum())
        assert facts.first_energy == pytest.approx(first, rel=1e-3)
        eigenvalues = torch.linalg.eigvalsh(x.T @ x)
        assert facts.effective_rank_all == pytest.approx(
            float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()), rel=1e-3
        )


def test_a_channel_scaled_fifty_times_is_found() -> None:
    model = tiny("llama")
    gain(model, "model.layers.1.input_layernorm").data[17] *= 50
    found = measured(model)

    facts = read_by(found, "q_proj", layer=1)
    assert facts.worst_channels[0][0] == 17
    assert facts.worst_channels[0][1] > 20
    assert facts.outlier_channels == 1
    assert facts.channel_energy > 0.9
    assert facts.effective_rank < 1.2
    assert read_by(found, "q_proj", layer=0).outlier_channels == 0


def test_a_massive_token_is_no_outlier_channel() -> None:
    """Its energy is told apart, and channels are judged by the other tokens."""
    model = tiny("llama")
    gain(model, "model.layers.0.mlp.gate_proj").data.fill_(0)  # gate(0) = 0: the network adds nothing
    gain(model, "model.embed_tokens").data[SINK, 11] = 4000.0
    found = measured(model)

    (massive,) = found.stream[0].massive
    assert (massive.channel, massive.tokens, massive.first, massive.count) == (11, (str(SINK),), 1.0, len(windows()))
    assert massive.value == pytest.approx(4000.0, rel=0.01)
    assert massive.times_median > 1000
    assert found.stream[0].top[0] == pytest.approx(4000.0, rel=0.01)
    assert not plain("llama")[2].stream[0].massive


def test_outlier_tokens_hold_their_share_of_the_energy() -> None:
    model = tiny("llama", tie_word_embeddings=False)
    gain(model, "model.layers.0.mlp.up_proj").data *= 0.01
    outlier = read_by(measured(model), "down_proj")
    x = received(model, "model.layers.0.mlp.down_proj", windows())
    norms = x.norm(dim=-1)
    beyond = norms > 6 * norms.median(dim=1, keepdim=True).values

    assert outlier.outlier_tokens == pytest.approx(float(beyond.float().mean()))
    assert outlier.outlier_energy == pytest.approx(float(x[beyond].square().sum() / x.square().sum()), abs=1e-6)
    assert outlier.ordinary.largest == pytest.approx(float(x[~beyond].abs().max()))


def test_a_super_weight_is_found() -> None:
    model = tiny("llama")
    relations = discover(model)
    gain(model, "model.layers.1.mlp.down_proj").data[7, 30] = 1e5
    (found,) = measured(model, relations).super_weights

    assert (found.name, found.row, found.column) == ("model.layers.1.mlp.down_proj", 7, 30)
    assert found.value == 1e5
    assert found.share == pytest.approx(1.0, abs=0.01)
    assert not plain("llama")[2].super_weights


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "qwen3"])
def test_attention_on_the_first_token_is_what_the_model_attends(name: str) -> None:
    model, _, found = plain(name)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(input_ids=windows(), output_attentions=True, use_cache=False).attentions
    model.set_attn_implementation(before)

    assert len(found.attention) == len(attentions)
    for facts, weights in zip(found.attention, attentions, strict=True):
        last = weights.shape[2] if model.config.model_type != "gemma2" or facts.layer % 2 else 8  # its window
        direct = weights[:, :, 1:last, 0].mean(dim=(0, 2))
        assert torch.tensor(facts.first_share) == pytest.approx(direct, abs=1e-6)
        assert facts.even_share == pytest.approx(sum(1 / (n + 1) for n in range(1, last)) / (last - 1), rel=1e-5)
        assert facts.sink_heads == int((direct > 0.3).sum())


def test_the_model_is_left_as_it_was() -> None:
    model = tiny("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured(model)

    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_mixture_of_experts_is_measured_as_far_as_its_linears_run() -> None:
    _, relations, found = plain("olmoe")

    assert {name for facts in found.inputs for name in facts.linears} == set(relations.linears)
