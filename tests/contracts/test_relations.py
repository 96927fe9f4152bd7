"""On every architecture: what is discovered is right, and a scale passes through it without a trace."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from slmquant.errors import ModelError
from slmquant.files import cache_dir
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.structure import ChannelLink, Relations
from slmquant.testing.preservation import logit_change, scale_everything_
from slmquant.testing.tiny import ARCHITECTURES, tiny
from tests.contracts.expected_relations import EXPECTED
from tests.discovered import relations_of


@functools.cache
def found(name: str) -> tuple[PreTrainedModel, Relations]:
    return tiny(name), relations_of(name)


def in_words(relations: Relations, block: str) -> set[str]:
    prefix = f"{block}."

    def short(name: str | None) -> str:
        return "-" if name is None else name.removeprefix(prefix)

    groups = [g for g in relations.groups if g.linears[0].startswith(prefix)]
    links = [k for k in relations.links if k.source.startswith(prefix)]
    return {f"{short(g.norm)}: {' '.join(map(short, g.linears))}" for g in groups} | {
        f"{short(k.source)} > {short(k.target)}" for k in links
    }


def rows(name: str, source: str) -> list[int]:
    """Source rows of the link from the linear of that name in the first block."""
    _, relations = found(name)
    (link,) = [k for k in relations.links if k.source == f"{relations.blocks[0]}.{source}"]
    return list(link.source_rows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_groups_and_links_are_those_of_the_architecture(name: str) -> None:
    _, relations = found(name)
    expected = EXPECTED[name]
    texts = expected if isinstance(expected, list) else [expected] * len(relations.blocks)
    for block, text in zip(relations.blocks, texts, strict=True):
        assert in_words(relations, block) == {line.strip() for line in text.strip().splitlines() if line.strip()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scaling_through_everything_leaves_the_logits(name: str) -> None:
    model, relations = found(name)
    assert logit_change(model, lambda copy: scale_everything_(copy, relations)) < 1e-9


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_linear_is_in_exactly_one_group(name: str) -> None:
    model, relations = found(name)
    grouped = [linear for group in relations.groups for linear in group.linears]
    assert sorted(grouped) == sorted(relations.linears)
    assert all(linear.startswith(relations.blocks) for linear in relations.linears)
    assert model.get_submodule(relations.embedding) is model.get_input_embeddings()
    assert relations.head is not None
    assert model.get_submodule(relations.head) is model.get_output_embeddings()


def values(heads: int, kv_heads: int, head_dim: int, first: int = 0, apart: int | None = None) -> list[int]:
    """Value rows as the attention heads read them; key-value heads begin `apart` rows from each other."""
    starts = [first + head // (heads // kv_heads) * (apart or head_dim) for head in range(heads)]
    return [start + channel for start in starts for channel in range(head_dim)]


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("llama", "self_attn.v_proj", values(4, 2, 10)),
        ("qwen3", "self_attn.v_proj", values(4, 2, 14)),
        ("llama", "mlp.up_proj", list(range(56))),
        ("phi3", "self_attn.qkv_proj", values(4, 2, 10, first=60)),
        ("phi3", "mlp.gate_up_proj", list(range(56, 112))),
        ("gpt2", "attn.c_attn", list(range(72, 108))),
        ("gpt_neox", "attention.query_key_value", values(4, 4, 10, first=20, apart=30)),
        ("bloom", "self_attention.query_key_value", values(4, 4, 10, first=20, apart=30)),
        ("falcon", "self_attention.query_key_value", values(4, 1, 10, first=50)),
        ("falcon-new", "self_attention.query_key_value", values(4, 2, 10, first=30, apart=40)),
        ("codegen", "attn.qkv_proj", values(4, 4, 12, first=12, apart=36)),
        ("opt", "fc1", list(range(56))),
    ],
)
def test_input_channels_follow_the_rows_they_are_made_of(name: str, source: str, expected: list[int]) -> None:
    assert rows(name, source) == expected


def test_linears_come_in_the_order_of_execution() -> None:
    _, relations = found("llama")
    order = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert [name.rsplit(".", 1)[-1] for name in relations.linears] == order * 2


@pytest.mark.parametrize(("name", "tied"), [("llama", True), ("gpt2", True), ("llama-yarn", False)])
def test_a_tied_head_is_recognized(name: str, tied: bool) -> None:
    assert found(name)[1].tied is tied


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt"])
def test_the_same_is_found_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    assert discover(nn.Module.to(tiny(name), dtype)) == found(name)[1]


@pytest.mark.parametrize("seed", range(5))
def test_the_same_is_found_whatever_the_weights(seed: int) -> None:
    assert discover(tiny("phi3", seed=seed)) == found("phi3")[1]


def test_a_linear_that_returns_zeros_is_seen_through() -> None:
    model = tiny("opt")
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.fc1.weight.zero_()
            layer.fc1.bias.fill_(-1.0)  # every ReLU is dead
            layer.self_attn.v_proj.weight[3].zero_()
    assert discover(model) == found("opt")[1]


def test_one_block_that_differs_from_its_kind_is_probed_for_itself() -> None:
    model = tiny("opt", num_hidden_layers=3)
    model.model.decoder.layers[1].activation_fn = nn.GELU()
    links = [link.source for link in discover(model).links]
    assert [f"model.decoder.layers.{i}.fc1" in links for i in range(3)] == [True, False, True]


def test_a_norm_that_something_else_reads_may_not_absorb_a_scale() -> None:
    model = tiny("llama")

    def read_again(_: nn.Module, __: tuple[()], kwargs: dict[str, Any], output: tuple[Any, ...]) -> tuple[Any, ...]:
        return output[0] + kwargs["hidden_states"], *output[1:]

    model.model.layers[0].self_attn.register_forward_hook(read_again, with_kwargs=True)
    norms = [group.norm for group in discover(model).groups]
    assert "model.layers.0.input_layernorm" not in norms
    assert "model.layers.1.input_layernorm" in norms


@dataclass
class State:
    weights: dict[str, Tensor]
    training: dict[str, bool]
    hooks: int


def state(model: PreTrainedModel) -> State:
    return State(
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: module.training for name, module in model.named_modules()},
        sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()),
    )


def assert_same(before: State, after: State) -> None:
    assert all(torch.equal(after.weights[name], tensor) for name, tensor in before.weights.items())
    assert (before.training, before.hooks) == (after.training, after.hooks)


def test_discovery_leaves_no_trace() -> None:
    model = tiny("gemma3_text").train()
    model.model.layers[1].eval()
    before = state(model)
    random = torch.get_rng_state()
    discover(model)
    assert_same(before, state(model))
    assert torch.equal(torch.get_rng_state(), random)


def test_discovery_leaves_no_trace_when_the_model_fails() -> None:
    model = tiny("llama").train()

    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    handle = model.model.layers[1].mlp.register_forward_hook(fail)
    before = state(model)
    with pytest.raises(RuntimeError, match="out of order"):
        discover(model)
    assert_same(before, state(model))
    handle.remove()


def test_a_model_without_decoder_blocks_is_refused() -> None:
    model = tiny("llama")
    model.model.layers = nn.ModuleList()
    with pytest.raises(ModelError, match="no decoder blocks in LlamaForCausalLM"):
        discover(model)


def test_a_forgotten_half_of_a_scale_shows() -> None:
    """The check of this suite can fail: a norm that is scaled without its linears changes the logits."""
    model, _ = found("llama")

    def forget_(copy: PreTrainedModel) -> None:
        with torch.no_grad():
            copy.model.layers[0].input_layernorm.weight[0] *= 1.001

    assert logit_change(model, forget_) > 1e-7


@pytest.mark.real_model
def test_a_real_model_is_read_whole() -> None:
    folder = cache_dir() / "models" / "smollm2-135m-instruct"
    if not folder.exists():
        pytest.skip("smollm2-135m-instruct is not here; slmquant pull smollm2-135m-instruct")
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = state(model)
    relations = discover(model)
    assert_same(before, state(model))
    assert (len(relations.linears), len(relations.groups), len(relations.links)) == (210, 120, 60)
    assert sum(group.norm is not None for group in relations.groups) == 60
    assert set(in_words(relations, relations.blocks[29])) == in_words(relations, relations.blocks[0])


def test_a_link_names_one_row_per_input_channel() -> None:
    for name in ARCHITECTURES:
        model, relations = found(name)
        for link in relations.links:
            assert isinstance(link, ChannelLink)
            assert len(link.source_rows) == weight_at(model, link.target).shape[1]
