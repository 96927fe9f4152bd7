"""Which architectures can be turned and who writes their residual stream, written down by hand."""

_BEHIND = "stands between its output and the residual stream"
_EXPERTS = "modules other than linears write its residual stream"

REFUSED: dict[str, str] = {
    "gemma2": _BEHIND,
    "gemma3_text": _BEHIND,
    "olmo2": _BEHIND,
    "exaone4": _BEHIND,
    "olmoe": _EXPERTS,
    "qwen2_moe": _EXPERTS,
}
"""Norms behind the linears, and experts that are no modules."""

KEEPS_MEAN: frozenset[str] = frozenset(
    (
        *("phi", "stablelm", "stablelm-parallel", "olmo", "olmo-clip", "cohere", "cohere-norm", "starcoder2"),
        *("gpt2", "gpt_neo", "gpt_neox", "gpt_neox-sequential", "opt", "bloom", "mpt", "gptj", "codegen", "nemotron"),
        *("falcon", "falcon-alibi", "falcon-new"),
    )
)
"""Models with LayerNorm: only rotations that keep the mean will do."""

_LLAMA = "self_attn.o_proj mlp.down_proj"
_NEOX = "attention.dense mlp.dense_4h_to_h"
_BLOOM = "self_attention.dense mlp.dense_4h_to_h"
_MAMBA = "mixer.out_proj"

WRITERS: dict[str, str] = {
    **dict.fromkeys(
        (
            *("llama", "llama-yarn", "llama-bias", "mistral", "qwen2", "qwen3", "gemma", "phi3", "smollm3", "granite"),
            *("stablelm", "stablelm-parallel", "olmo", "olmo-clip", "cohere", "cohere-norm", "nemotron"),
        ),
        _LLAMA,
    ),
    "phi": "self_attn.dense mlp.fc2",
    "starcoder2": "self_attn.o_proj mlp.c_proj",
    "gpt2": "attn.c_proj mlp.c_proj",
    "gpt_neo": "attn.attention.out_proj mlp.c_proj",
    "gpt_neox": _NEOX,
    "gpt_neox-sequential": _NEOX,
    "opt": "self_attn.out_proj fc2",
    "bloom": _BLOOM,
    "falcon": _BLOOM,
    "falcon-alibi": _BLOOM,
    "falcon-new": _BLOOM,
    "mpt": "attn.out_proj ffn.down_proj",
    "gptj": "attn.out_proj mlp.fc_out",
    "codegen": "attn.out_proj mlp.fc_out",
    "lfm2": "conv.out_proj feed_forward.w2",
    "mamba": _MAMBA,
    "mamba2": _MAMBA,
}
"""In the last block, in execution order."""

HEADS: dict[str, set[int]] = {
    "qwen3": {14},
    "gemma": {14},
    "gpt2": {12},
    "gpt_neo": {12},
    "gptj": {12},
    "codegen": {12},
    "olmo-clip": set(),  # a clipped value cannot be turned
    "mamba": set(),
    "mamba2": set(),
}
"""Channels of a head wherever it is not 10; empty where values do not pass linearly."""
