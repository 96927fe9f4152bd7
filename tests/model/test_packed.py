"""A tree gives every input the states that it has alone, and models for which that is not so are found out."""

from __future__ import annotations

import pytest
import torch

from slmquant.model.computing.kv_cache import quantize_cache_
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.running.token_trees import PackedBody, common_length, lay_out, longest_shared, rounded
from slmquant.schemes.kv import KvSpec
from slmquant.testing.tiny import ARCHITECTURES, VOCABULARY, tiny

RECURRENT = {"mamba", "mamba2", "lfm2"}
NARROW = {"mistral", "gemma2", "gemma3_text", "exaone4", "gpt_neo"}
"""Their windows are narrower than the inputs that they are tried on."""
ALIBI = {"bloom", "falcon-alibi", "mpt"}
CANNOT = RECURRENT | NARROW | ALIBI


def inputs(seed: int, count: int, longest: int = 30) -> list[tuple[int, ...]]:
    """Sorted inputs of which many begin alike, some even are the beginning of another."""
    drawn = torch.Generator().manual_seed(seed)
    found: set[tuple[int, ...]] = {(5, 6, 7, 8)}
    while len(found) < count:
        base = sorted(found)[int(torch.randint(len(found), (1,), generator=drawn))]
        kept = base[: int(torch.randint(1, len(base) + 1, (1,), generator=drawn))]
        size = int(torch.randint(0, longest - len(kept) + 1, (1,), generator=drawn))
        found.add(kept + tuple(torch.randint(VOCABULARY, (size,), generator=drawn).tolist()))
    return sorted(found)


@pytest.mark.parametrize("seed", range(5))
def test_a_path_spells_its_input_and_no_beginning_is_there_twice(seed: int) -> None:
    texts = inputs(seed, 12)
    tree = lay_out(texts)
    for tokens, path in zip(texts, tree.paths, strict=True):
        assert tuple(tree.tokens[node] for node in path) == tokens
        assert [tree.depths[node] for node in path] == list(range(len(tokens)))
    beginnings = {tokens[:stop] for tokens in texts for stop in range(1, len(tokens) + 1)}
    assert len(tree.tokens) == len(beginnings)


def test_what_is_cached_is_not_in_the_tree() -> None:
    texts = [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 6)]
    tree = lay_out(texts, skip=2)
    assert tree.tokens == (3, 4, 5, 6)
    assert tree.depths == (2, 3, 3, 2)
    assert tree.paths == ((0, 1), (0, 2), (3,))


def test_common_length_is_that_of_the_common_beginning() -> None:
    assert [common_length((1, 2, 3), other) for other in ((), (2,), (1, 2), (1, 2, 4, 3), (1, 2, 3))] == [0, 0, 2, 2, 3]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in CANNOT])
def test_trees_give_what_inputs_give_alone(name: str) -> None:
    model = tiny(name)
    assert longest_shared(model) is None
    body = PackedBody(model)
    trees = [lay_out(inputs(seed, 6)) for seed in range(2)]
    hidden = body.hidden(trees)
    for seed, tree in enumerate(trees):
        for tokens, path in zip(inputs(seed, 6), tree.paths, strict=True):
            with torch.inference_mode():
                alone = model.get_decoder()(input_ids=torch.tensor([tokens]), use_cache=False)[0][0]
            torch.testing.assert_close(hidden[seed, list(path)], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_products_in_bfloat16_do_not_hide_that_a_model_shares(name: str) -> None:
    model = tiny(name)
    multiply_in_(model, torch.bfloat16)
    assert longest_shared(model) is None


@pytest.mark.parametrize("name", ["bloom", "lfm2", "mpt"])
def test_products_in_bfloat16_do_not_hide_that_a_model_cannot(name: str) -> None:
    model = tiny(name)
    multiply_in_(model, torch.bfloat16)
    assert longest_shared(model) == 0


def test_a_cached_beginning_serves_many_trees_and_is_gone_afterwards() -> None:
    model = tiny("qwen3")
    body = PackedBody(model)
    beginning = (5, 6, 7, 8, 9, 10)
    texts = [sorted(beginning + rest for rest in inputs(seed, 5)) for seed in range(2)]
    with body.after(beginning):
        after = [body.hidden([lay_out(group, skip=6)])[0] for group in texts]
    for group, hidden in zip(texts, after, strict=True):
        tree = lay_out(group)
        whole = body.hidden([tree])[0]
        for path, rest in zip(tree.paths, lay_out(group, skip=6).paths, strict=True):
            torch.testing.assert_close(hidden[list(rest)], whole[list(path[6:])], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(CANNOT))
def test_models_that_cannot_are_found_out(name: str) -> None:
    assert longest_shared(tiny(name)) == 0


def test_a_cache_rounded_in_groups_of_tokens_is_found_out() -> None:
    model = tiny("llama")
    quantize_cache_(model, KvSpec(bits=2, key_tokens=16))
    assert longest_shared(model) == 0
    quantize_cache_(model, KvSpec(bits=4))
    assert longest_shared(model) is None


def test_a_wide_window_bounds_what_is_shared() -> None:
    assert longest_shared(tiny("mistral", sliding_window=100)) == 100


def test_long_trees_come_in_few_lengths_and_little_is_padded() -> None:
    assert [rounded(nodes) for nodes in (1, 7, 63)] == [1, 7, 63]
    assert all(0 <= rounded(nodes) - nodes < 16 for nodes in range(64, 600))
    assert len({rounded(nodes) for nodes in range(64, 512)}) == 29
