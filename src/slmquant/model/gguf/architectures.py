"""Requirements of llama.cpp's graphs for each architecture: key names, row orders, gains of norms.

Every entry is tested against llama.cpp: a tiny random model is written and loaded there, and its logits are compared
with torch's. An architecture or a setting that is not listed here is refused.

Facts: transformers' modelling files, and llama.cpp's `src/models` and `conversion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import gguf
import torch
from torch import Tensor
from transformers import PreTrainedConfig

Rows = Literal["interleaved", "apart"]
"""How rows are reordered.

* `interleaved`: rotary pairs become neighbours (rows 0 and d/2 of a head become 0 and 1), as llama.cpp's older rotary
  embedding expects for queries and keys.
* `apart`: a fused projection with query, key and value head by head is reordered to all queries, keys and values.
"""

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_QKV = ("q_proj", "k_proj", "v_proj")
_GATED = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Architecture:
    """One `model_type` of transformers as a graph of llama.cpp.

    Attributes:
        graph: llama.cpp's architecture.
        rows: Linears whose rows are reordered, by the last part of their names.
        biases: Linears whose bias the graph reads, by the last part of their names.
        gain_offset: Added to the gain of every norm: 1 if transformers computes with `1 + weight`.
        epsilon: Name of the norms' epsilon in the configuration.
        layer_norm: Whether its norms subtract the mean.
        floats: Further numbers: end of the GGUF key → name in the configuration.
        required: Settings with the values that the graph assumes; None for a setting that must be absent.
        present: Settings that must be present, because the graph would otherwise use defaults.
        own_head: Whether it needs a separate head, so that models with a tied head are refused.
    """

    graph: gguf.MODEL_ARCH
    rows: Mapping[str, Rows] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    gain_offset: float = 0.0
    epsilon: str = "rms_norm_eps"
    layer_norm: bool = False
    floats: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, object] = field(default_factory=dict)
    present: tuple[str, ...] = ()
    own_head: bool = False

    @property
    def name(self) -> str:
        """Its name in `general.architecture`."""
        return str(gguf.MODEL_ARCH_NAMES[self.graph])


_INTERLEAVED: Mapping[str, Rows] = {"q_proj": "interleaved", "k_proj": "interleaved"}
_SILU = {"hidden_act": "silu"}
_GEMMA = {"attention_bias": False, "hidden_activation": "gelu_pytorch_tanh"}

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture(gguf.MODEL_ARCH.LLAMA, rows=_INTERLEAVED, biases=(*_ATTENTION, *_GATED), required=_SILU),
        "mistral": Architecture(gguf.MODEL_ARCH.LLAMA, rows=_INTERLEAVED, required=_SILU),
        "qwen2": Architecture(gguf.MODEL_ARCH.QWEN2, biases=_QKV, required={**_SILU, "use_sliding_window": False}),
        "qwen3": Architecture(
            gguf.MODEL_ARCH.QWEN3, required={**_SILU, "use_sliding_window": False, "attention_bias": False}
        ),
        "gemma": Architecture(
            gguf.MODEL_ARCH.GEMMA,
            gain_offset=1.0,
            required={"attention_bias": False, "hidden_act": "gelu_pytorch_tanh"},
        ),
        "gemma2": Architecture(
            gguf.MODEL_ARCH.GEMMA2,
            gain_offset=1.0,
            floats={
                "attn_logit_softcapping": "attn_logit_softcapping",
                "final_logit_softcapping": "final_logit_softcapping",
            },
            required=_GEMMA,
            present=("attn_logit_softcapping", "final_logit_softcapping"),
        ),
        "gemma3_text": Architecture(
            gguf.MODEL_ARCH.GEMMA3,
            gain_offset=1.0,
            required={**_GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None},
        ),
        "phi": Architecture(
            gguf.MODEL_ARCH.PHI2,
            biases=(*_QKV, "dense", "fc1", "fc2", "lm_head"),
            epsilon="layer_norm_eps",
            layer_norm=True,
            required={"qk_layernorm": False, "hidden_act": "gelu_new"},
            own_head=True,
        ),
        "phi3": Architecture(gguf.MODEL_ARCH.PHI3, required=_SILU),
        "gpt2": Architecture(
            gguf.MODEL_ARCH.GPT2,
            biases=("c_attn", "c_proj", "c_fc"),
            epsilon="layer_norm_epsilon",
            layer_norm=True,
            required={
                "activation_function": "gelu_new",
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False,
            },
        ),
        "smollm3": Architecture(
            gguf.MODEL_ARCH.SMOLLM3,
            rows=_INTERLEAVED,
            required={**_SILU, "use_sliding_window": False, "no_rope_layer_interval": 4, "attention_bias": False},
        ),
        "stablelm": Architecture(
            gguf.MODEL_ARCH.STABLELM,
            biases=_QKV,
            epsilon="layer_norm_eps",
            layer_norm=True,
            required={**_SILU, "qk_layernorm": False},
            own_head=True,
        ),
        "olmo": Architecture(
            gguf.MODEL_ARCH.OLMO,
            rows=_INTERLEAVED,
            layer_norm=True,
            floats={"attention.clamp_kqv": "clip_qkv"},
            required={**_SILU, "attention_bias": False},
        ),
        "olmo2": Architecture(gguf.MODEL_ARCH.OLMO2, required={**_SILU, "attention_bias": False}, own_head=True),
        "granite": Architecture(
            gguf.MODEL_ARCH.GRANITE,
            rows=_INTERLEAVED,
            biases=(*_ATTENTION, *_GATED),
            floats={
                "attention.scale": "attention_multiplier",
                "embedding_scale": "embedding_multiplier",
                "residual_scale": "residual_multiplier",
                "logit_scale": "logits_scaling",
            },
            required=_SILU,
        ),
        "cohere": Architecture(
            gguf.MODEL_ARCH.COMMAND_R,
            epsilon="layer_norm_eps",
            layer_norm=True,
            floats={"logit_scale": "logit_scale"},
            required={**_SILU, "attention_bias": False, "use_qk_norm": False},
        ),
        "starcoder2": Architecture(
            gguf.MODEL_ARCH.STARCODER2,
            biases=(*_ATTENTION, "c_fc", "c_proj"),
            epsilon="norm_epsilon",
            layer_norm=True,
            required={"hidden_act": "gelu_pytorch_tanh", "sliding_window": None, "use_bias": True},
        ),
        "gpt_neox": Architecture(
            gguf.MODEL_ARCH.GPTNEOX,
            rows={"query_key_value": "apart"},
            biases=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
            epsilon="layer_norm_eps",
            layer_norm=True,
            required={"hidden_act": "gelu", "attention_bias": True},
            own_head=True,
        ),
        "nemotron": Architecture(
            gguf.MODEL_ARCH.NEMOTRON,
            gain_offset=1.0,
            epsilon="norm_eps",
            layer_norm=True,
            required={"hidden_act": "relu2", "attention_bias": False, "mlp_bias": False},
            own_head=True,
        ),
    }
)
"""Architectures by `model_type`."""


def row_order(rows: Rows, count: int, heads: int) -> Tensor:
    """For each row of the file, the index of that row in the model; `(count,)` of int64.

    Args:
        rows: The kind of order.
        count: Number of rows of the weight.
        heads: Number of heads in the weight: key-value heads for a key projection.
    """
    places = torch.arange(count)
    if rows == "interleaved":
        return places.view(heads, 2, -1).transpose(1, 2).flatten()
    return places.view(heads, 3, -1).transpose(0, 1).flatten()


def refusal_of(config: PreTrainedConfig) -> str | None:
    """Why no graph of llama.cpp computes a model of this configuration; None if one does."""
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        return f"architecture {config.model_type!r} is not supported; supported: {', '.join(ARCHITECTURES)}"
    for name, required in architecture.required.items():
        if (actual := getattr(config, name, None)) != required:
            return f"llama.cpp computes {config.model_type} with {name} = {required}, this model has {actual}"
    for name in architecture.present:
        if getattr(config, name, None) is None:
            return f"llama.cpp computes {config.model_type} with {name}, this model has none"
    if architecture.own_head and config.tie_word_embeddings:
        return f"llama.cpp's {config.model_type} needs a separate head, but this model's is tied to the embedding"
    if config.model_type == "smollm3":
        rotated = [int((layer + 1) % config.no_rope_layer_interval != 0) for layer in range(config.num_hidden_layers)]
        if list(config.no_rope_layers) != rotated:
            return (
                f"llama.cpp rotates queries and keys of smollm3 in layers {rotated}, this model {config.no_rope_layers}"
            )
    scalar = getattr(config, "query_pre_attn_scalar", None)
    if scalar is not None and scalar != config.head_dim:
        return f"llama.cpp divides scores by the root of head_dim {config.head_dim}, this model by the root of {scalar}"
    return None
