"""Tiny random models of every supported architecture, built offline from their transformers configurations.

Shapes are awkward on purpose (no powers of two unless required), key-value heads are shared if the family shares them,
and every gain and bias is random, so that a forgotten bias or a gain of the form (1 + weight) shows in tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 67
"""Number of tokens of every tiny model."""

_LLAMA: dict[str, object] = {
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_ALL_HEADS = {**_LLAMA, "num_key_value_heads": 4}
_GPT2: dict[str, object] = {"n_embd": 36, "n_layer": 2, "n_head": 3, "n_positions": 64}
_GPTJ = {**_GPT2, "rotary_dim": 4}
_FALCON: dict[str, object] = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
_YARN: dict[str, object] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}

SETTINGS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "llama": {**_LLAMA, "tie_word_embeddings": True},
        "llama-yarn": {**_LLAMA, "rope_parameters": _YARN},
        "llama-bias": {**_LLAMA, "attention_bias": True, "mlp_bias": True},
        "mistral": {**_LLAMA, "head_dim": 10, "sliding_window": 8},
        "qwen2": {**_LLAMA, "tie_word_embeddings": True},
        "qwen3": {**_LLAMA, "head_dim": 14},
        "gemma": {**_LLAMA, "head_dim": 14},
        "gemma2": {**_LLAMA, "head_dim": 14, "sliding_window": 8, "query_pre_attn_scalar": 14},
        "gemma3_text": {**_LLAMA, "head_dim": 14, "sliding_window": 8, "num_hidden_layers": 6},
        "phi": {**_LLAMA, "partial_rotary_factor": 0.4},
        "phi3": {**_LLAMA, "pad_token_id": 0},
        "smollm3": {**_LLAMA, "num_hidden_layers": 4, "pad_token_id": 0},
        "stablelm": {**_LLAMA, "use_qkv_bias": True},
        "stablelm-parallel": {**_LLAMA, "use_parallel_residual": True, "qk_layernorm": True},
        "olmo": _LLAMA,
        "olmo-clip": {**_LLAMA, "clip_qkv": 2.0},
        "olmo2": _LLAMA,
        "granite": {**_LLAMA, "residual_multiplier": 0.3, "logits_scaling": 3.0},
        "cohere": {**_LLAMA, "pad_token_id": 0},
        "cohere-norm": {**_LLAMA, "pad_token_id": 0, "use_qk_norm": True},
        "starcoder2": {**_LLAMA, "use_bias": True},
        "gpt2": _GPT2,
        "gpt_neo": {
            "hidden_size": 36,
            "num_layers": 2,
            "num_heads": 3,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 5,
            "max_position_embeddings": 64,
        },
        "gpt_neox": {**_ALL_HEADS, "rotary_pct": 0.4},
        "gpt_neox-sequential": {**_ALL_HEADS, "use_parallel_residual": False},
        "opt": {
            "hidden_size": 40,
            "ffn_dim": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 24,
        },
        "bloom": {"hidden_size": 40, "n_layer": 2, "n_head": 4},
        "falcon": _FALCON,
        "falcon-alibi": {
            **_FALCON,
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
        },
        "falcon-new": {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
        "mpt": {"d_model": 40, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
        "gptj": _GPTJ,
        "codegen": {**_GPTJ, "n_embd": 48, "n_head": 4},
        "lfm2": {
            **_LLAMA,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", "full_attention", "conv"],
            "num_hidden_layers": 3,
        },
        "exaone4": {**_LLAMA, "sliding_window": 8, "sliding_window_pattern": 2},
        "nemotron": _LLAMA,
        "olmoe": {**_LLAMA, "num_experts": 4, "num_experts_per_tok": 2},
        "qwen2_moe": {
            **_LLAMA,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 28,
            "shared_expert_intermediate_size": 44,
        },
        "mamba": {"hidden_size": 40, "state_size": 6, "num_hidden_layers": 2, "time_step_rank": 5},
        "mamba2": {
            "hidden_size": 40,
            "state_size": 6,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 10,
            "n_groups": 2,
            "chunk_size": 4,
        },
    }
)
"""`model_type` or `model_type-variant` → settings that differ from the configuration's defaults."""

ARCHITECTURES: tuple[str, ...] = tuple(SETTINGS)
"""Every name that `tiny` accepts."""


def tiny(name: str, seed: int = 0, **settings: object) -> PreTrainedModel:
    """A tiny random causal language model in float32, in evaluation mode.

    Args:
        name: A `model_type` of transformers, or one with a variant (`llama-yarn`); see `ARCHITECTURES`.
        seed: Random seed of the weights; the same seed gives the same model.
        settings: Entries of the configuration that replace those in `SETTINGS`.
    """
    family = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, **SETTINGS[name], **settings}
    config = AutoConfig.for_model(name.split("-")[0], **family)
    build = AutoModelForCausalLM.from_config
    with torch.random.fork_rng(devices=()):  # some architectures draw biases from torch's own generator
        torch.manual_seed(seed)
        model: PreTrainedModel = build(config, dtype=torch.float32)  # type: ignore[no-untyped-call]  # unannotated
    _randomize_(model, torch.Generator().manual_seed(seed))
    model.train(False)
    return model


def _randomize_(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight anew, large enough that every part of the model matters to the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:  # gains and biases: near their old values, all different
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
