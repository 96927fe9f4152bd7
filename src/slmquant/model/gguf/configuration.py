"""A GGUF file's keys as a transformers configuration, proved by writing them again.

Every key of the architecture in the file is one that the configuration, written, would give the same value, or one that
says nothing. So a setting that is not read (a window, a scaling of positions) is an error and no silence.
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
"""What llama.cpp takes for the windows of Gemma 3 where a file does not say."""
_SAYS_NOTHING = (0, False, "none", 0.0)
_NOT_OF_THE_GRAPH = frozenset({"vocab_size", "rope.scaling.finetuned", "attention.causal"})
_CLOSE = 1e-5
_ORIGINAL_CONTEXTS = tuple(2**power for power in range(4, 21))


def model_type_of(fields: Mapping[str, object]) -> str:
    """The `model_type` whose graph a file names.

    Raises:
        ModelError: None that is known here.
    """
    graph, said = fields.get(_ARCHITECTURE_KEY), fields.get(MODEL_TYPE_KEY)
    of_graph = [name for name, architecture in ARCHITECTURES.items() if architecture.name == graph]
    if not of_graph:
        known = ", ".join(sorted({architecture.name for architecture in ARCHITECTURES.values()}))
        raise ModelError(f"its architecture {graph!r} is not read here ({known} are); give the model in safetensors")
    return str(said) if said in of_graph else of_graph[0]


def configuration_of(
    fields: Mapping[str, object], tensors: Mapping[str, tuple[int, ...]], freqs: Tensor | None
) -> PreTrainedConfig:
    """The configuration of a file.

    Args:
        fields: Its keys.
        tensors: Names and shapes of its tensors.
        freqs: Its `rope_freqs.weight`: what each rotary frequency is divided by.

    Raises:
        ModelError: A key says what is not read, or is missing.
        KeyError: A size is missing.
    """
    model_type = model_type_of(fields)
    architecture = ARCHITECTURES[model_type]
    own = {
        key.removeprefix(f"{architecture.name}."): value
        for key, value in fields.items()
        if key.startswith(f"{architecture.name}.")
    }
    settings = _settings(model_type, own, fields, tensors)
    rope = _rope(model_type, own, settings, freqs)
    if rope is not None:
        settings["rope_parameters"] = rope
    config = AutoConfig.for_model(model_type, **settings)
    _prove(config, own, freqs)
    return config


def _settings(
    model_type: str, own: Mapping[str, object], fields: Mapping[str, object], tensors: Mapping[str, tuple[int, ...]]
) -> dict[str, object]:
    architecture = ARCHITECTURES[model_type]
    heads, hidden = _whole(own, "attention.head_count"), _whole(own, "embedding_length")
    settings: dict[str, object] = {
        **architecture.required,
        "vocab_size": tensors["token_embd.weight"][0],
        "hidden_size": hidden,
        "num_hidden_layers": _whole(own, "block_count"),
        "num_attention_heads": heads,
        "max_position_embeddings": _whole(own, "context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    inner = "n_inner" if model_type == "gpt2" else "intermediate_size"
    settings[inner] = _whole(own, "feed_forward_length")
    if model_type not in ("gpt2", "gpt_neox"):
        settings["num_key_value_heads"] = (
            _whole(own, "attention.head_count_kv") if "attention.head_count_kv" in own else heads
        )
    size = own.get("attention.key_length", hidden // heads)
    if size != hidden // heads or model_type.startswith(("gemma", "qwen3")):
        settings["head_dim"] = size
    if model_type in ("gemma2", "gemma3_text"):
        settings |= {"query_pre_attn_scalar": size, "sliding_window": _whole(own, "attention.sliding_window")}
    elif model_type in ("mistral", "phi3"):
        settings["sliding_window"] = own.get("attention.sliding_window")
    settings[architecture.epsilon] = own[f"attention.layer_norm_{'' if architecture.layer_norm else 'rms_'}epsilon"]
    settings |= {name: own[end] for end, name in architecture.floats.items() if end in own}
    if "use_parallel_residual" in own:
        settings["use_parallel_residual"] = own["use_parallel_residual"]
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
    model_type: str, own: Mapping[str, object], settings: Mapping[str, object], freqs: Tensor | None
) -> dict[str, object] | None:
    if model_type == "gpt2":
        return None
    hidden, heads = cast(int, settings["hidden_size"]), cast(int, settings["num_attention_heads"])
    size = cast(int, settings.get("head_dim", hidden // heads))
    base = float(cast(float, own.get("rope.freq_base", _SWA_BASE)))
    turned = cast(int, own.get("rope.dimension_count", size))
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": turned / size}
    kind = own.get("rope.scaling.type", "none")
    if freqs is not None:
        rope |= _llama3(base, turned, freqs)
    elif kind != "none":
        rope |= {"rope_type": kind, "factor": float(cast(float, own["rope.scaling.factor"]))}
        for end, name in (
            ("original_context_length", "original_max_position_embeddings"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ):
            if f"rope.scaling.{end}" in own:
                rope[name] = own[f"rope.scaling.{end}"]
    if model_type == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": float(cast(float, own.get("rope.freq_base_swa", _SWA_BASE)))}
        return {"full_attention": rope, "sliding_attention": local}
    return rope


def _llama3(base: float, turned: int, divisors: Tensor) -> dict[str, object]:
    """The settings that give these divisors: Llama 3's own bounds, for some power of two of original positions.

    Raises:
        ModelError: None does.
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
    raise ModelError("its rope_freqs.weight divides frequencies otherwise than Llama 3; give the model in safetensors")


def _prove(config: PreTrainedConfig, own: Mapping[str, object], freqs: Tensor | None) -> None:
    """Hold every key of the file against what the configuration would be written as."""
    reason = architectures.refusal_of(config) or metadata.rope_refusal(config) or metadata.window_refusal(config)
    if reason is not None:
        raise ModelError(f"it cannot be read as {config.model_type}: {reason}")
    written = dict(metadata.keys_of(config))
    for end, value in own.items():
        if end in _NOT_OF_THE_GRAPH or (end not in written and value in _SAYS_NOTHING):
            continue
        if end not in written or not _equal(written[end], value):
            means = f"{written[end]!r} is read" if end in written else f"a {config.model_type} here has no such setting"
            raise ModelError(f"its key {end} is {value!r}, and {means}; give the model in safetensors")
    rope = metadata.rope_of(config)
    divisors = None if rope is None else rope.divisors
    if freqs is not None and (divisors is None or not torch.allclose(divisors, freqs, rtol=1e-3)):
        raise ModelError("its rope_freqs.weight is not what is read; give the model in safetensors")


def _equal(written: object, found: object) -> bool:
    if isinstance(written, str) or isinstance(found, str | list):
        return written == found
    return math.isclose(float(cast(float, written)), float(cast(float, found)), rel_tol=_CLOSE, abs_tol=1e-12)


def _whole(own: Mapping[str, object], end: str) -> int:
    value = own[end]
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"its key {end} is {value!r}, expected one whole number for all layers")
    return value
