"""Every model of the laboratory equals the base but for its factor: with the factor undone, it is the same function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from slmquant.lab.arms import configuration, initial, matching_intermediate, parameters
from slmquant.lab.checks import MATCHED
from slmquant.lab.plan import changed
from slmquant.lab.settings import Settings

BASE = Settings(layers=2, hidden=32, heads=4, key_heads=4, intermediate=56, vocabulary=300, context=32)
IDS = torch.randint(300, (2, 24), generator=torch.Generator().manual_seed(0))


def level(**changes: object) -> Settings:
    return changed(BASE, changes)


@torch.inference_mode()
def logits(model: PreTrainedModel) -> Tensor:
    result: Tensor = model.double()(IDS).logits
    return result


def same(model: PreTrainedModel, other: PreTrainedModel) -> bool:
    return bool(torch.allclose(logits(model), logits(other), atol=1e-9))


def filled(settings: Settings, weights: PreTrainedModel, **entries: object) -> PreTrainedModel:
    """A model of a level with entries of its configuration replaced, and the weights of another."""
    config = configuration(settings)
    for name, value in entries.items():
        setattr(config, name, value)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    absent, unexpected = model.load_state_dict(weights.state_dict(), strict=False)
    assert not unexpected
    assert all("_norm.weight" in name or name.endswith("norm.bias") for name in absent)
    return model


@pytest.fixture
def base() -> PreTrainedModel:
    return initial(BASE, 0)


def layers(model: PreTrainedModel) -> Any:
    return model.model.layers


def test_the_base_is_a_llama(base: PreTrainedModel) -> None:
    assert isinstance(base, LlamaForCausalLM)


def test_without_positions_differs_by_them_alone(base: PreTrainedModel) -> None:
    nope = level(position="nope")

    assert same(filled(nope, base, no_rope_layers=[1, 1]), base)
    assert not same(filled(nope, base), base)


def test_yarn_that_does_not_stretch_is_the_base(base: PreTrainedModel) -> None:
    assert same(filled(level(position="yarn", yarn_factor=1.0), base), base)
    assert not same(filled(level(position="yarn"), base), base)


def test_shared_keys_are_the_base_with_repeated_keys(base: PreTrainedModel) -> None:
    shared = initial(level(key_heads=2), 0)
    weights = shared.state_dict()
    for name in list(weights):
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            weights[name] = weights[name].view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    base.load_state_dict(weights)

    assert same(shared, base)


def test_an_untied_head_that_is_the_embedding_is_the_base(base: PreTrainedModel) -> None:
    untied = initial(level(tied=False), 0)
    assert not same(untied, base)
    untied.load_state_dict(base.state_dict())

    assert same(untied, base)


def test_norms_of_queries_and_keys_that_do_nothing_leave_the_base(base: PreTrainedModel) -> None:
    normed = filled(level(qk_norm=True), base)
    assert not same(normed, base)
    for layer in layers(normed):
        layer.self_attn.q_norm = layer.self_attn.k_norm = nn.Identity()

    assert same(normed, base)


def test_layer_norms_that_are_rms_norms_leave_the_base(base: PreTrainedModel) -> None:
    normed: Any = filled(level(norm="layer"), base)
    assert not same(normed, base)
    for layer in layers(normed):
        layer.input_layernorm = layer.post_attention_layernorm = LlamaRMSNorm(32, 1e-6)
    normed.model.norm = LlamaRMSNorm(32, 1e-6)

    assert same(normed, base)


def test_a_plain_network_that_is_gated_is_the_base(base: PreTrainedModel) -> None:
    plain = AutoModelForCausalLM.from_config(configuration(level(feed_forward="plain")))
    plain.load_state_dict({k: v for k, v in base.state_dict().items() if "gate_proj" not in k})
    assert not same(plain, base)
    for layer, other in zip(layers(plain), layers(base), strict=True):
        layer.mlp = LlamaMLP(base.config)
        layer.mlp.load_state_dict(other.mlp.state_dict())

    assert same(plain, base)


def test_a_deeper_model_whose_further_layers_add_nothing_is_the_base(base: PreTrainedModel) -> None:
    deep = initial(level(layers=3), 0)
    deep.load_state_dict(base.state_dict(), strict=False)
    for name, weight in layers(deep)[2].named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(weight)

    assert same(deep, base)


def test_what_trains_differently_begins_as_the_base(base: PreTrainedModel) -> None:
    for changes in ({"steps": 3}, {"weight_decay": 0.0}, {"schedule": "constant"}):
        assert same(initial(level(**changes), 0), base)


def test_a_block_begins_alike_and_the_placebo_does_not(base: PreTrainedModel) -> None:
    assert same(initial(BASE, 0), base)
    assert not same(initial(level(start=1), 0), base)
    assert not same(initial(BASE, 1), base)
    shared = initial(level(key_heads=2, intermediate=60), 0).state_dict()
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"):
        assert torch.equal(shared[name], base.state_dict()[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"key_heads": 1},
        {"tied": False, "vocabulary": 320},
        {"feed_forward": "plain"},
        {"layers": 3, "hidden": 24},
        {"layers": 1, "hidden": 40},
    ],
)
def test_the_suggested_width_matches_the_parameters(changes: dict[str, object]) -> None:
    wide = changed(Settings(), changes) if "hidden" not in changes else level(**changes)
    start = Settings() if "hidden" not in changes else BASE
    width = matching_intermediate(start, wide)

    assert width is not None
    assert abs(parameters(wide.model_copy(update={"intermediate": width})) / parameters(start) - 1) <= MATCHED


def test_no_width_is_suggested_where_none_matches() -> None:
    assert matching_intermediate(BASE, level(hidden=320)) is None
