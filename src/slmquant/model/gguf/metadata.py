"""GGUF keys that describe a model for llama.cpp: sizes, heads, epsilons, rotary frequencies, windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from slmquant.model.gguf.architectures import ARCHITECTURES, row_order

Value = bool | int | float | str
"""Value of a key; integers are written as uint32, floats as float32."""


@dataclass(frozen=True)
class Rope:
    """Settings of the rotary position embedding.

    Attributes:
        keys: Keys under `rope.` and their values.
        divisors: Divisor of each rotary frequency, if the keys cannot express it; else None.
    """

    keys: Mapping[str, Value]
    divisors: Tensor | None = None


def keys_of(config: PreTrainedConfig) -> Iterator[tuple[str, Value]]:
    """All keys of a model of a supported architecture, without the architecture's prefix."""
    architecture = ARCHITECTURES[config.model_type]
    yield "context_length", _context(config)
    yield "embedding_length", config.hidden_size
    yield "block_count", config.num_hidden_layers
    yield "feed_forward_length", getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    yield "attention.head_count", config.num_attention_heads
    yield "attention.head_count_kv", key_heads(config)
    yield "attention.key_length", head_size(config)
    yield "attention.value_length", head_size(config)
    yield "vocab_size", config.vocab_size
    epsilon = float(getattr(config, architecture.epsilon, 1e-5))
    yield f"attention.layer_norm_{'' if architecture.layer_norm else 'rms_'}epsilon", epsilon
    for end, name in architecture.floats.items():
        if (value := getattr(config, name, None)) is not None:
            yield end, float(value)
    if (parallel := getattr(config, "use_parallel_residual", None)) is not None:
        yield "use_parallel_residual", bool(parallel)
    if window := _window(config):
        yield "attention.sliding_window", window
    if (rope := rope_of(config)) is not None:
        for end, value in rope.keys.items():
            yield f"rope.{end}", value


def head_size(config: PreTrainedConfig) -> int:
    """Channels per head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def key_heads(config: PreTrainedConfig) -> int:
    """Number of key-value heads."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def order_of(config: PreTrainedConfig, module: str, count: int) -> Tensor | None:
    """Order of the `count` rows of a linear, or of its bias, in the file; None for the model's order."""
    rows = ARCHITECTURES[config.model_type].rows.get(leaf := module.rpartition(".")[2])
    if rows is None:
        return None
    heads = key_heads(config) if leaf == "k_proj" else config.num_attention_heads
    return row_order(rows, count, int(heads))


def rope_of(config: PreTrainedConfig) -> Rope | None:
    """Rotary settings of a configuration; None if it has none, or if `rope_refusal` has a reason."""
    given = getattr(config, "rope_parameters", None)
    if not given or rope_refusal(config) is not None:
        return None
    local, parameters = given.get("sliding_attention"), given.get("full_attention", given)
    base, kind = float(parameters["rope_theta"]), parameters.get("rope_type", "default")
    turned = int(head_size(config) * float(parameters.get("partial_rotary_factor", 1.0)))
    keys: dict[str, Value] = {"dimension_count": turned, "freq_base": base}
    if local is not None:
        keys["freq_base_swa"] = float(local["rope_theta"])
    if kind == "llama3":
        return Rope(keys, _divisors(config, base, turned))
    if kind != "default":
        keys |= {"scaling.type": kind, "scaling.factor": float(parameters["factor"])}
    if kind == "yarn":
        original = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
        keys["scaling.original_context_length"] = int(original)
        for end, name in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
            if parameters.get(name) is not None:
                keys[f"scaling.{end}"] = float(parameters[name])
    return Rope(keys)


def rope_refusal(config: PreTrainedConfig) -> str | None:
    """Why llama.cpp's keys cannot express this model's rotary embedding; None if they can."""
    given = getattr(config, "rope_parameters", None)
    if not given:
        return None
    parameters, local = given.get("full_attention", given), given.get("sliding_attention", {})
    kind = parameters.get("rope_type", "default")
    if kind not in ("default", "linear", "yarn", "llama3"):
        return f"rotary scaling {kind!r} is not supported; default, linear, yarn and llama3 are"
    if kind == "llama3" and config.model_type != "llama":
        return f"llama.cpp supports llama3 rotary scaling for llama only, not for {config.model_type}"
    if local.get("rope_type", "default") != "default":
        return "llama.cpp scales rotary frequencies of full attention only, this model also those of sliding windows"
    unsupported = [name for name in ("attention_factor", "mscale", "mscale_all_dim") if parameters.get(name)]
    if kind == "yarn" and (unsupported or parameters.get("truncate") is False):
        return f"yarn with {', '.join(unsupported) or 'truncate = false'} is not supported"
    return None


def window_refusal(config: PreTrainedConfig) -> str | None:
    """Why llama.cpp attends to other tokens than this model; None if to the same."""
    period = {"gemma2": 2, "gemma3_text": 6}.get(config.model_type)
    if period is None or not _window(config):
        return None
    for layer, kind in enumerate(config.layer_types):
        expected = "full_attention" if (layer + 1) % period == 0 else "sliding_attention"
        if kind != expected:
            return f"llama.cpp computes layer {layer} of {config.model_type} with {expected}, this model with {kind}"
    return None


def _window(config: PreTrainedConfig) -> int | None:
    """Size of the sliding window; None if the graph has no windowed layers."""
    if config.model_type in ("gemma2", "gemma3_text"):
        return int(config.sliding_window)
    return None


def _context(config: PreTrainedConfig) -> int:
    """Context length to state; at most one window for mistral and phi3, whose graphs have no windows."""
    longest = int(config.max_position_embeddings)
    if config.model_type in ("mistral", "phi3") and config.sliding_window is not None:
        return min(longest, int(config.sliding_window))
    return longest


def _divisors(config: PreTrainedConfig, base: float, turned: int) -> Tensor:
    """Divisors of the rotary frequencies, computed by transformers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    plain = base ** -(torch.arange(0, turned, 2, dtype=torch.float64) / turned)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    return (plain / scaled.double()).float()
