"""Tiny models that llama.cpp can hold: rows of 96 and 160, a multiple of its blocks and of nothing else."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from slmquant.artifact import Artifact
from slmquant.calib.calibration import FreshCalibration
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import VOCABULARY, tiny

_WIDE = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "num_key_value_heads": 3}
_HEADS = {**_WIDE, "head_dim": 32}
_GEMMA = {**_HEADS, "query_pre_attn_scalar": 32}
_ALL_HEADS = {**_WIDE, "num_key_value_heads": 6}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

MODELS: Mapping[str, tuple[str, Mapping[str, object]]] = MappingProxyType(
    {
        "llama": ("llama", _WIDE),
        "llama-untied": ("llama", {**_WIDE, "tie_word_embeddings": False}),
        "llama-bias": ("llama-bias", _WIDE),
        "llama-linear": ("llama", {**_WIDE, "rope_parameters": _LINEAR}),
        "llama-llama3": ("llama", {**_WIDE, "rope_parameters": _LLAMA3}),
        "llama-yarn": ("llama-yarn", _WIDE),
        "mistral": ("mistral", _HEADS),
        "qwen2": ("qwen2", _WIDE),
        "qwen3": ("qwen3", _HEADS),
        "gemma": ("gemma", _HEADS),
        "gemma2": ("gemma2", _GEMMA),
        "gemma3_text": ("gemma3_text", _GEMMA),
        "phi": ("phi", {**_ALL_HEADS, "partial_rotary_factor": 0.5}),
        "phi3": ("phi3", _WIDE),
        "gpt2": ("gpt2", {"n_embd": 96}),
        "smollm3": ("smollm3", _WIDE),
        "stablelm": ("stablelm", _WIDE),
        "olmo": ("olmo", _WIDE),
        "olmo-clip": ("olmo-clip", _WIDE),
        "olmo2": ("olmo2", _WIDE),
        "granite": ("granite", _WIDE),
        "cohere": ("cohere", _WIDE),
        "starcoder2": ("starcoder2", _WIDE),
        "gpt_neox": ("gpt_neox", {**_ALL_HEADS, "rotary_pct": 0.5}),
        "gpt_neox-sequential": ("gpt_neox-sequential", {**_ALL_HEADS, "rotary_pct": 0.5}),
        "nemotron": ("nemotron", _WIDE),
    }
)
"""Which tiny model, and what of its settings differs."""


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of as many tokens as the models have."""
    others = sorted(set(ByteLevel.alphabet()) - set("ĊĠab"))
    words = ["Ċ", "Ġ", "a", "b", "ab", *others][: VOCABULARY - 2]
    made = Tokenizer(BPE({word: place for place, word in enumerate(words)}, [("a", "b")]))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def quantized(name: str, method: str = "none", scheme: str = "W16A16", **settings: Any) -> QuantizedModel:
    base, differing = MODELS[name]
    model = tiny(base, **{**differing, **settings})
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())
    return quantize_(model, method, parse(scheme), calibration)


def export(quantized_model: QuantizedModel) -> Artifact:
    return Artifact(quantized_model, tokenizer(), "tiny", "0" * 64)
