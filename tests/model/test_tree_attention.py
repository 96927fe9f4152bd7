"""Attention in parts gives what attention under one mask gives, and what every input gives alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from slmquant.model.computing.kv_cache import quantize_cache_
from slmquant.model.running import token_trees
from slmquant.model.running.token_trees import PackedBody, lay_out, longest_shared, rounded
from slmquant.model.running.tree_attention import Part, in_parts, parts_of
from slmquant.schemes.kv import KvSpec
from slmquant.testing.tiny import ARCHITECTURES, VOCABULARY, tiny
from tests.model.test_packed import CANNOT

BEGINNING = (5, 6, 7, 8, 9, 10)


def questions(seed: int) -> list[tuple[int, ...]]:
    """Sorted inputs behind one beginning, more than a part can hold; two of them share half of their tokens."""
    drawn = torch.Generator().manual_seed(seed)
    fresh = [tuple(torch.randint(VOCABULARY, (size,), generator=drawn).tolist()) for size in (55, 25, 50, 12, 9, 40)]
    return sorted(BEGINNING + rest for rest in [*fresh, fresh[0][:30] + fresh[1]])


def additive(visible: torch.Tensor) -> torch.Tensor:
    return torch.zeros(visible.shape).masked_fill_(~visible, torch.finfo(torch.float32).min)[None, None]


def test_parts_are_cut_at_branches_and_see_what_the_mask_shows() -> None:
    nodes, cached = 200, 3
    visible = torch.zeros(nodes, cached + nodes, dtype=torch.bool)
    visible[:, :cached] = True
    branches = [(0, 70, ()), (70, 100, (0, 1, 2)), (100, 150, ()), (150, 200, (100, 101))]
    for start, stop, ancestors in branches:
        visible[start:stop, [cached + node for node in ancestors]] = True
        visible[start:stop, cached + start : cached + stop] = torch.ones(stop - start, stop - start).tril().bool()
    parts = parts_of([start for start, _, _ in branches], additive(visible))
    assert [(part.start, part.stop) for part in parts] == [(0, 70), (70, 150), (150, 200)]
    assert parts[1].sees.tolist() == [0, 1, 2, *range(70, 150)]
    assert parts[2].sees.tolist() == [100, 101, *range(150, 200)]
    for part in parts:
        columns = torch.cat((torch.arange(cached), cached + part.sees))
        assert torch.equal(part.mask[0, 0] == 0, visible[part.start : part.stop, columns])


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in CANNOT])
def test_parts_give_what_inputs_give_alone(name: str) -> None:
    model = tiny(name)
    before = model.config._attn_implementation
    texts = questions(0)
    tree = lay_out(texts, skip=len(BEGINNING))
    body = PackedBody(model)
    with body.after(BEGINNING):
        first, again = body.hidden([tree])[0], body.hidden([tree])[0]
    assert torch.equal(first, again), "what is cached has changed"
    assert model.config._attn_implementation == before
    for tokens, path in zip(texts, tree.paths, strict=True):
        with torch.inference_mode():
            alone = model.get_decoder()(input_ids=torch.tensor([tokens]), use_cache=False)[0][0]
        torch.testing.assert_close(first[list(path)], alone[len(BEGINNING) :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_no_product_is_much_larger_than_its_part(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    tree = lay_out(questions(1), skip=len(BEGINNING))
    sizes: list[tuple[int, int]] = []
    attention = functional.scaled_dot_product_attention

    def measured(query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        sizes.append((query.shape[2], key.shape[2]))
        return attention(query, key, *rest, **options)

    body = PackedBody(model)
    with body.after(BEGINNING):
        monkeypatch.setattr(functional, "scaled_dot_product_attention", measured)
        body.hidden([tree])
    assert sum(queries for queries, _ in sizes) == rounded(len(tree.tokens)) * model.config.num_hidden_layers
    assert len(tree.tokens) > 180
    assert max(queries for queries, _ in sizes) < 120
    assert max(keys for _, keys in sizes) < len(BEGINNING) + 150


def test_the_trial_of_sharing_attends_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an architecture for which parts are wrong is found out, as one that cannot share is."""
    attended = []

    def recorded(model: PreTrainedModel, parts: Sequence[Part]) -> AbstractContextManager[None]:
        attended.append(len(parts))
        return in_parts(model, parts)

    monkeypatch.setattr(token_trees, "in_parts", recorded)
    assert longest_shared(tiny("llama")) is None
    assert attended == [2]


def test_wrong_parts_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(starts: Sequence[int], mask: torch.Tensor) -> list[Part]:
        first, *others = parts_of(starts, mask)
        masked = first.mask.clone()
        masked[..., 0] = torch.finfo(torch.float32).min  # the first cached key
        return [replace(first, mask=masked), *others]

    monkeypatch.setattr(token_trees, "parts_of", blind)
    assert longest_shared(tiny("llama")) == 0


def test_a_rounded_cache_attends_as_it_did() -> None:
    model = tiny("llama")
    quantize_cache_(model, KvSpec(bits=4))
    before = model.config._attn_implementation
    with in_parts(model, []):
        assert model.config._attn_implementation == before
