"""Read llama2.c files: a header of seven integers, consecutive float32 tensors, a scored vocabulary."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slmquant.errors import ModelError

_HEADER = struct.Struct("<7i")
_BOS, _EOS = 1, 2
_BYTE_TOKENS = range(3, 259)
"""Ids of the 256 single-byte tokens."""


def read_llama2c(weights: Path, tokenizer: Path | None = None) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Read a llama2.c checkpoint and its tokenizer as a transformers model (float32) and a fast tokenizer.

    Args:
        weights: The checkpoint file; the tokenizer may follow in the same file.
        tokenizer: The tokenizer's file, if it is separate.

    Raises:
        ModelError: A file is truncated, or not in llama2.c's layout.
    """
    content = weights.read_bytes()
    config, tensors, end = _read_weights(content, weights.name)
    model = LlamaForCausalLM(config)
    model.load_state_dict(tensors, strict=not config.tie_word_embeddings)
    # Stories were concatenated for training with BOS between them, so BOS also ends a story.
    generation = GenerationConfig(bos_token_id=_BOS, eos_token_id=[_BOS, _EOS])
    model.generation_config = generation
    vocabulary = content[end:] if tokenizer is None else tokenizer.read_bytes()
    return model, _read_tokenizer(vocabulary, config, (tokenizer or weights).name)


def _read_weights(content: bytes, name: str) -> tuple[LlamaConfig, dict[str, Tensor], int]:
    """Config, tensors under transformers' names, and the position in the file where they end."""
    if len(content) < _HEADER.size:
        raise ModelError(f"{name} has {len(content)} bytes, too few for llama2.c's header; fetch it again")
    dim, ffn, layers, heads, kv_heads, vocab, context = _HEADER.unpack_from(content)
    tied, vocab = vocab > 0, abs(vocab)
    if min(dim, ffn, layers, heads, kv_heads, vocab, context) < 1 or dim % heads or heads % kv_heads:
        raise ModelError(f"{name} does not begin with a llama2.c header (seven plausible integers); fetch it again")
    head_dim = dim // heads
    kv_dim = kv_heads * head_dim
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=dim,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        bos_token_id=_BOS,
        eos_token_id=_EOS,
        dtype="float32",
    )
    position = _HEADER.size

    def take(*shape: int) -> NDArray[np.float32]:
        nonlocal position
        count = int(np.prod(shape))
        if position + 4 * count > len(content):
            raise ModelError(f"{name} ends after {len(content)} bytes, inside its weights; fetch it again")
        values = np.frombuffer(content, "<f4", count, position).reshape(shape).astype(np.float32)
        position += 4 * count
        return values

    stacked = {
        "model.embed_tokens": take(vocab, dim),
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": _half_split(take(layers, dim, dim), head_dim),
        "self_attn.k_proj": _half_split(take(layers, kv_dim, dim), head_dim),
        "self_attn.v_proj": take(layers, kv_dim, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, ffn, dim),
        "mlp.down_proj": take(layers, dim, ffn),
        "mlp.up_proj": take(layers, ffn, dim),
        "model.norm": take(dim),
    }
    take(2, context, head_dim // 2)  # RoPE's cosines and sines, which transformers computes itself
    if not tied:
        stacked["lm_head"] = take(vocab, dim)
    tensors: dict[str, Tensor] = {}
    for key, values in stacked.items():
        if key.startswith(("model.", "lm_head")):
            tensors[f"{key}.weight"] = torch.from_numpy(values)
        else:
            for layer in range(layers):
                tensors[f"model.layers.{layer}.{key}.weight"] = torch.from_numpy(values[layer].copy())
    if tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    return config, tensors, position


def _half_split(weight: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Reorder the rows of q or k, `(layers, out, in)`, for transformers' rotary embedding.

    llama2.c rotates neighbouring rows (0, 1), (2, 3), ... of a head together; transformers rotates row i together with
    row i + head_dim/2.
    """
    layers, out_features, in_features = weight.shape
    pairs = weight.reshape(layers, out_features // head_dim, head_dim // 2, 2, in_features)
    return pairs.swapaxes(2, 3).reshape(weight.shape)


def _read_tokenizer(content: bytes, config: LlamaConfig, name: str) -> PreTrainedTokenizerFast:
    """A byte-fallback BPE whose merges are ordered by llama2.c's scores.

    llama2.c always merges the neighbouring tokens whose union has the best score. So every split of a token into two
    other tokens is a merge, ranked by the score of the union.
    """
    pieces, scores = _read_vocabulary(content, config.vocab_size, name)
    special = [unknown, bos, eos] = ["<unk>", "<s>", "</s>"]
    names = special + [f"<0x{byte:02X}>" for byte in range(256)]
    names += [piece.decode("utf-8", errors="replace") for piece in pieces[len(names) :]]
    ids: dict[str, int] = {}
    for index, text in enumerate(names):
        ids.setdefault(text, index)
    if len(ids) != config.vocab_size:
        raise ModelError(
            f"{name} repeats {config.vocab_size - len(ids)} tokens, expected each token once; fetch it again"
        )
    spelled = range(_BYTE_TOKENS.stop, config.vocab_size)
    merges = [
        (scores[index], names[index][:cut], names[index][cut:])
        for index in spelled
        for cut in range(1, len(names[index]))
        if names[index][:cut] in ids and names[index][cut:] in ids
    ]
    merges.sort(key=lambda merge: (-merge[0], ids[merge[1]], ids[merge[2]]))
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[(left, right) for _, left, right in merges],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Prepend(" ")  # like llama2.c, which adds a space before the text
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, _BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unknown,
        bos_token=bos,
        eos_token=eos,
        model_max_length=config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )


def _read_vocabulary(content: bytes, size: int, name: str) -> tuple[list[bytes], list[float]]:
    """Bytes and score of each token."""
    record = struct.Struct("<fi")
    pieces, scores, position = [], [], 4  # the first integer is the length of the longest token
    for index in range(size):
        stop = position + record.size
        if stop > len(content):
            raise ModelError(f"{name} ends at token {index} of {size}; fetch it again, or give its tok*.bin")
        score, length = record.unpack_from(content, position)
        if length < 0 or stop + length > len(content):
            raise ModelError(f"{name} is not a llama2.c tokenizer: token {index} has length {length}; fetch it again")
        pieces.append(content[stop : stop + length])
        scores.append(score)
        position = stop + length
    return pieces, scores
