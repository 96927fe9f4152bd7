"""What comes out of a llama2.c file computes what llama2.c computes."""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slmquant.errors import ModelError
from slmquant.model.sources.read_llama2c import read_llama2c
from tests import tiny_llama2c

Array = NDArray[np.float64]


def oracle_logits(path: Path, tokens: list[int]) -> Array:
    """The forward pass of llama2.c in float64, straight from the file: neighbouring rows rotate together."""
    content = path.read_bytes()
    dim, ffn, layers, heads, kv_heads, vocab, _ = struct.unpack_from("<7i", content)
    head_dim, kv_dim = dim // heads, dim // heads * kv_heads
    position = 28

    def take(*shape: int) -> Array:
        nonlocal position
        values = np.frombuffer(content, "<f4", int(np.prod(shape)), position).astype(np.float64)
        position += 4 * values.size
        return values.reshape(shape)

    embedding, norm1 = take(vocab, dim), take(layers, dim)
    wq, wk, wv = take(layers, dim, dim), take(layers, kv_dim, dim), take(layers, kv_dim, dim)
    wo, norm2 = take(layers, dim, dim), take(layers, dim)
    w1, w2, w3, final = take(layers, ffn, dim), take(layers, dim, ffn), take(layers, ffn, dim), take(dim)

    def normed(x: Array, gain: Array) -> Array:
        scaled: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain
        return scaled

    def rotated(x: Array) -> Array:
        """`x` is `(tokens, heads, head_dim)`."""
        angle = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
        pair = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None]
        return np.stack([pair.real, pair.imag], -1).reshape(x.shape)

    x, count = embedding[tokens], len(tokens)
    causal = np.triu(np.full((count, count), -np.inf), 1)
    for layer in range(layers):
        h = normed(x, norm1[layer])
        q = rotated((h @ wq[layer].T).reshape(count, heads, head_dim))
        k = rotated((h @ wk[layer].T).reshape(count, kv_heads, head_dim)).repeat(heads // kv_heads, 1)
        v = (h @ wv[layer].T).reshape(count, kv_heads, head_dim).repeat(heads // kv_heads, 1)
        score = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head_dim) + causal
        share = np.exp(score - score.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", share, v).reshape(count, dim) @ wo[layer].T
        h = normed(x, norm2[layer])
        gate = h @ w1[layer].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w3[layer].T)) @ w2[layer].T
    return normed(x, final) @ embedding.T


def assert_same_function(weights: Path, tokenizer: Path) -> None:
    model, _ = read_llama2c(weights, tokenizer)
    tokens = [
        1,
        *torch.randint(3, model.config.vocab_size, (40,), generator=torch.Generator().manual_seed(0)).tolist(),
    ]

    with torch.inference_mode():
        found = model(torch.tensor([tokens])).logits[0].double().numpy()

    expected = oracle_logits(weights, tokens)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_logits_equal_a_plain_forward_pass_over_the_file(tmp_path: Path) -> None:
    assert_same_function(*tiny_llama2c.write(tmp_path))


@pytest.mark.real_model
def test_logits_of_stories260k_equal_a_plain_forward_pass() -> None:
    folder = Path(os.environ.get("SLMQUANT_DATA", "../shared/data")).parent / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip("models/stories260k is not beside the data folder")

    assert_same_function(folder / "stories260K.bin", folder / "tok512.bin")


def test_the_tokenizer_may_follow_in_the_same_file(tmp_path: Path) -> None:
    weights, tokenizer = tiny_llama2c.write(tmp_path)
    joined = tmp_path / "joined.data"
    joined.write_bytes(weights.read_bytes() + tokenizer.read_bytes())

    apart, together = read_llama2c(weights, tokenizer), read_llama2c(joined)

    assert apart[1].get_vocab() == together[1].get_vocab()
    assert all(torch.equal(a, b) for a, b in zip(apart[0].parameters(), together[0].parameters(), strict=True))


def test_tied_weights_are_one_parameter(tmp_path: Path) -> None:
    model, _ = read_llama2c(*tiny_llama2c.write(tmp_path))

    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("text", ["abc", " abc", "cab  ab\n\n", "été 日本 \U0001f600", "", "▁a"])
def test_text_survives_the_tokenizer(tmp_path: Path, text: str) -> None:
    _, tokenizer = read_llama2c(*tiny_llama2c.write(tmp_path))

    ids = tokenizer(text).input_ids

    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def oracle_tokens(text: str) -> list[bytes]:
    """llama2.c's loop: join the neighbours whose union scores best, the first of equals, until none joins."""
    score = dict(zip(tiny_llama2c.PIECES, tiny_llama2c.SCORES, strict=True))
    pieces = [char.encode() for char in " " + text]
    while True:
        joins = [(score[a + b], -i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in score]
        if not joins:
            return pieces
        first = -max(joins)[1]
        pieces[first : first + 2] = [pieces[first] + pieces[first + 1]]


@pytest.mark.parametrize("text", ["abc", "aab", "abcabc ab", "bcab c", "ab bc abc a"])
def test_tokens_are_those_of_llama2c(tmp_path: Path, text: str) -> None:
    _, tokenizer = read_llama2c(*tiny_llama2c.write(tmp_path))

    ids = tokenizer(text, add_special_tokens=False).input_ids

    assert [token.encode() for token in tokenizer.convert_ids_to_tokens(ids)] == oracle_tokens(text)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    weights, tokenizer = tiny_llama2c.write(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-5000])

    with pytest.raises(ModelError, match=r"tiny\.bin ends after .* inside its weights"):
        read_llama2c(weights, tokenizer)


def test_a_truncated_tokenizer_is_refused(tmp_path: Path) -> None:
    weights, tokenizer = tiny_llama2c.write(tmp_path)
    tokenizer.write_bytes(tokenizer.read_bytes()[:-30])

    with pytest.raises(ModelError, match=r"tok\.bin ends at token"):
        read_llama2c(weights, tokenizer)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    _, tokenizer = tiny_llama2c.write(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"GGUF" + bytes(1000))

    with pytest.raises(ModelError, match="header"):
        read_llama2c(tmp_path / "x.bin", tokenizer)
