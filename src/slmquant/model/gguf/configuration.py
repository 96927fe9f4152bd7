"""Convert a GGUF file's keys to a transformers configuration, verified by converting it back.

Every key of the architecture in the file must get the same value when the configuration is converted back, or have a
neutral value. So a setting that is not supported (a window, a scaling of positions) is an error, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from slmquant.errors import ModelError
from slmquant.model.gguf import architectures, metadata
from slmquant.model.gguf.architectures import ARCHITECTURES

MODEL_TYPE_KEY = "slmquant.model_type"
_ARCHITECTURE_KEY = "general.architecture"
_SWA_BASE = 10000.0
"""llama.cpp's default rotary base for the sliding-window layers of Gemma 3."""
_SAYS_NOTHING = (0, False, "none", 0.0)
_NOT_OF_THE_GRAPH = frozenset({"vocab_size", "rope.scaling.finetuned", "attention.causal"})
_CLOSE = 1e-5
_ORIGINAL_CONTEXTS = tuple(2**power for power in range(4, 21))


def model_type_of(fields: Mapping[str, object]) -> str:
    """The `model_type` of a file's architecture.

    Raises:
        ModelError: The architecture is not supported.
    """
    graph, stated = fields.get(_ARCHITECTURE_KEY), fields.get(MODEL_TYPE_KEY)
    of_graph = [name for name, architecture in ARCHITECTURES.items() if architecture.name == graph]
    if not of_graph:
        known = ", ".join(sorted({architecture.name for architecture in ARCHITECTURES.values()}))
        raise ModelError(
            f"its architecture {graph!r} is not supported (supported: {known}); use the model in safetensors format"
        )
    return str(stated) if stated in of_graph else of_graph[0]


def configuration_of(
    fields: Mapping[str, object], tensors: Mapping[str, tuple[int, ...]], freqs: Tensor | None
) -> PreTrainedConfig:
    """The configuration of a file.

    Args:
        fields: Keys and values of the file.
        tensors: Names and shapes of its tensors.
        freqs: Its `rope_freqs.weight`, the divisors of the rotary frequencies.

    Raises:
        ModelError: A key is missing or has an unsupported value.
        KeyError: A size is missing.
    """
    model_type = model_type_of(fields)
    architecture = ARCHITECTURES[model_type]
    keys = {
        key.removeprefix(f"{architecture.name}."): value
        for key, value in fields.items()
        if key.startswith(f"{architecture.name}.")
    }
    settings = _settings(model_type, keys, fields, tensors)
    rope = _rope(model_type, keys, settings, freqs)
    if rope is not None:
        settings["rope_parameters"] = rope
    config = AutoConfig.for_model(model_type, **settings)
    _check_keys(config, keys, freqs)
    return config


def _settings(
    model_type: str, keys: Mapping[str, object], fields: Mapping[str, object], tensors: Mapping[str, tuple[int, ...]]
) -> dict[str, object]:
    architecture = ARCHITECTURES[model_type]
    heads, hidden = _whole(keys, "attention.head_count"), _whole(keys, "embedding_length")
    settings: dict[str, object] = {
        **architecture.required,
        "vocab_size": tensors["token_embd.weight"][0],
        "hidden_size": hidden,
        "num_hidden_layers": _whole(keys, "block_count"),
        "num_attention_heads": heads,
        "max_position_embeddings": _whole(keys, "context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    inner = "n_inner" if model_type == "gpt2" else "intermediate_size"
    settings[inner] = _whole(keys, "feed_forward_length")
    if model_type not in ("gpt2", "gpt_neox"):
        settings["num_key_value_heads"] = (
            _whole(keys, "attention.head_count_kv") if "attention.head_count_kv" in keys else heads
        )
    size = keys.get("attention.key_length", hidden // heads)
    if size != hidden // heads or model_type.startswith(("gemma", "qwen3")):
        settings["head_dim"] = size
    if model_type in ("gemma2", "gemma3_text"):
        settings |= {"query_pre_attn_scalar": size, "sliding_window": _whole(keys, "attention.sliding_window")}
    elif model_type in ("mistral", "phi3"):
        settings["sliding_window"] = keys.get("attention.sliding_window")
    settings[architecture.epsilon] = keys[f"attention.layer_norm_{'' if architecture.layer_norm else 'rms_'}epsilon"]
    settings |= {name: keys[end] for end, name in architecture.floats.items() if end in keys}
    if "use_parallel_residual" in keys:
        settings["use_parallel_residual"] = keys["use_parallel_residual"]
    for name, sign in (
        ("attention_bias", "attn_output.bias"),
        ("mlp_bias", "ffn_down.bias"),
        ("use_qkv_bias", "attn_q.bias"),
    ):
        if name not in architecture.required and (model_type in ("llama", "granite") or name == "use_qkv_bias"):
            settings[name] = f"blk.0.{sign}" in tensors
    for name in ("bos", "eos", "padding"):
        settings[f"{'pad' if name == 'padding' else name}_token_id"] = fields.get(f"tokenizer.ggml.{name}_token_id")
    return settings


def _rope(
    model_type: str, keys: Mapping[str, object], settings: Mapping[str, object], freqs: Tensor | None
) -> dict[str, object] | None:
    if model_type == "gpt2":
        return None
    hidden, heads = cast(int, settings["hidden_size"]), cast(int, settings["num_attention_heads"])
    size = cast(int, settings.get("head_dim", hidden // heads))
    base = float(cast(float, keys.get("rope.freq_base", _SWA_BASE)))
    turned = cast(int, keys.get("rope.dimension_count", size))
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": turned / size}
    kind = keys.get("rope.scaling.type", "none")
    if freqs is not None:
        rope |= _llama3(base, turned, freqs)
    elif kind != "none":
        rope |= {"rope_type": kind, "factor": float(cast(float, keys["rope.scaling.factor"]))}
        for end, name in (
            ("original_context_length", "original_max_position_embeddings"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ):
            if f"rope.scaling.{end}" in keys:
                rope[name] = keys[f"rope.scaling.{end}"]
    if model_type == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": float(cast(float, keys.get("rope.freq_base_swa", _SWA_BASE)))}
        return {"full_attention": rope, "sliding_attention": local}
    return rope


def _llama3(base: float, turned: int, divisors: Tensor) -> dict[str, object]:
    """The `llama3` settings with these divisors: Llama 3's own bounds, and a power of two as original context.

    Raises:
        ModelError: There are no such settings.
    """
    wavelengths = 2 * math.pi * base ** (torch.arange(0, turned, 2, dtype=torch.float64) / turned)
    factor = float(divisors.max())
    for original in _ORIGINAL_CONTEXTS:
        smooth = ((original / wavelengths - 1) / 3).clamp(0, 1)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if expected.shape == divisors.shape and torch.allclose(expected, divisors.double(), rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    raise ModelError("its rope_freqs.weight differs from Llama 3's scaling; use the model in safetensors format")


def _check_keys(config: PreTrainedConfig, keys: Mapping[str, object], freqs: Tensor | None) -> None:
    """Check that the configuration, converted back to keys, equals the keys of the file."""
    reason = architectures.refusal_of(config) or metadata.rope_refusal(config) or metadata.window_refusal(config)
    if reason is not None:
        raise ModelError(f"it cannot be read as {config.model_type}: {reason}")
    written = dict(metadata.keys_of(config))
    for end, value in keys.items():
        if end in _NOT_OF_THE_GRAPH or (end not in written and value in _SAYS_NOTHING):
            continue
        if end not in written or not _equal(written[end], value):
            problem = (
                f"it was read as {written[end]!r}" if end in written else f"{config.model_type} has no such setting"
            )
            raise ModelError(f"its key {end} is {value!r}, but {problem}; use the model in safetensors format")
    rope = metadata.rope_of(config)
    divisors = None if rope is None else rope.divisors
    if freqs is not None and (divisors is None or not torch.allclose(divisors, freqs, rtol=1e-3)):
        raise ModelError("its rope_freqs.weight does not match its settings; use the model in safetensors format")


def _equal(written: object, value: object) -> bool:
    if isinstance(written, str) or isinstance(value, str | list):
        return written == value
    return math.isclose(float(cast(float, written)), float(cast(float, value)), rel_tol=_CLOSE, abs_tol=1e-12)


def _whole(keys: Mapping[str, object], end: str) -> int:
    value = keys[end]
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"its key {end} is {value!r}, expected one positive integer for all layers")
    return value
