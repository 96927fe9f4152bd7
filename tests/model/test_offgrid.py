"""Off-grid weights: elsewhere than before, computing the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.errors import ModelError
from slmquant.model.discovery.float64 import logits_in_float64
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.sources import offgrid
from slmquant.model.sources.offgrid import move_off_grid
from slmquant.model.structure import Relations
from slmquant.testing.tiny import tiny

GROUP = 8


def nearest_4_bit(weight: Tensor) -> Tensor:
    """Round to 16 levels between the least and the largest weight of each group of 8 inputs."""
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / 15
    return (((groups - low) / step).round() * step + low).reshape(weight.shape)


def on_grid() -> tuple[PreTrainedModel, list[Tensor]]:
    model = tiny("llama")
    weights = [weight_at(model, name) for name in discover(model).linears]
    with torch.no_grad():
        for weight in weights:
            weight.copy_(nearest_4_bit(weight))
    return model, weights


def test_rounding_to_4_bits_costs_nothing_on_the_grid_and_its_full_price_off_it() -> None:
    model, weights = on_grid()
    price = 0.04  # of a step uniform in a group of 8 gaussian weights: about its range / 15 / √12
    assert all((nearest_4_bit(w) - w).norm() < 1e-5 * w.norm() for w in weights)
    move_off_grid(model)
    assert all((nearest_4_bit(w) - w).norm() > price / 2 * w.norm() for w in weights)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "opt", "lfm2", "mamba2"])
def test_the_function_stays(name: str) -> None:
    model = tiny(name)
    before = logits_in_float64(model)
    report = move_off_grid(model)
    change = (logits_in_float64(model) - before).abs().max()
    assert 0 < report.max_abs_logit_change < 1e-5
    assert float(change) == report.max_abs_logit_change


def test_the_report_counts_what_was_moved() -> None:
    report = move_off_grid(tiny("llama"))
    # two blocks: two norms of 40 channels, 20 value rows (shared by two heads each), 56 rows of up_proj
    assert (report.groups, report.links, report.channels) == (4, 4, 2 * (40 + 40 + 20 + 56))


def test_embeddings_and_the_residual_stream_are_left_alone() -> None:
    model, before = tiny("llama"), tiny("llama")
    move_off_grid(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.model.embed_tokens.weight, before.model.embed_tokens.weight)
    assert torch.equal(model.model.norm.weight, before.model.norm.weight)


def test_factors_stay_within_a_quarter_of_a_power_of_two() -> None:
    model, before = tiny("llama"), tiny("llama")
    move_off_grid(model)
    norm, norm_before = (m.model.layers[0].input_layernorm.weight for m in (model, before))
    exponents = (norm / norm_before).log2()
    assert exponents.abs().max() < 0.25001
    assert exponents.std() > 0.1


def test_the_same_seed_gives_the_same_weights() -> None:
    models = [tiny("llama") for _ in range(3)]
    for model, seed in zip(models, (7, 7, 8), strict=True):
        move_off_grid(model, seed)
    first, again, other = (model.model.layers[1].mlp.up_proj.weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_model_in_bfloat16_changes_by_its_own_rounding_only() -> None:
    model = tiny("llama").bfloat16()
    before = logits_in_float64(model).abs().max()
    assert move_off_grid(model).max_abs_logit_change < 0.1 * before


def test_a_changed_function_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(model: PreTrainedModel) -> Relations:
        """Value rows as if every head had its own: wrong where heads share them."""
        relations = discover(model)
        link = relations.links[0]
        wrong = dataclasses.replace(link, source_rows=tuple(reversed(link.source_rows)))
        return dataclasses.replace(relations, links=(wrong,))

    monkeypatch.setattr(offgrid, "discover", mistaken)
    with pytest.raises(ModelError, match=r"changed its logits by up to .* expected at most"):
        move_off_grid(tiny("llama"))


def test_a_model_that_cannot_be_rescaled_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(model: PreTrainedModel) -> Relations:
        return dataclasses.replace(discover(model), groups=(), links=())

    monkeypatch.setattr(offgrid, "discover", nothing)
    with pytest.raises(ModelError, match="nothing in LlamaForCausalLM can be rescaled"):
        move_off_grid(tiny("llama"))
