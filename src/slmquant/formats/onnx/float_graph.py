"""Build the float graph of a model with ONNX Runtime GenAI's own builder (`onnxruntime_genai.models.builder`, MIT).

The builder writes attention as one fused operator with rotary positions and an in-place cache, which tracing cannot
produce. It selects architectures by name and can be silently wrong: it reads configurations in the form of older
transformers versions, ignores Mistral's window and multiplies OLMo's norms. So configurations are converted to the
form it expects, and the logits of every graph are compared with the model's before the graph is used.
"""

from __future__ import annotations

import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import cast

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME, logging

from slmquant.boundary import guarded
from slmquant.errors import RefusedError
from slmquant.formats.common.entries import entries
from slmquant.formats.onnx.decoder import Decoder
from slmquant.model.computing.quantized_model import QuantizedModel

MODEL_TYPES = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "llama",
    "mistral",
    "nemotron",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
)
"""Architectures that the builder is known to write correctly."""
GRAPH = "model.onnx"
_PROBED_TOKENS = 64
_LARGEST_WINDOW = 1024
_TOLERANCE = 0.01
"""Allowed error in standard deviations of the logits: GELU approximations stay within a third, faults exceed it."""


def architecture_refusal(quantized: QuantizedModel) -> str | None:
    """Why the builder cannot write this architecture; None if it may."""
    model_type = quantized.model.config.model_type
    if model_type not in MODEL_TYPES:
        return (
            f"ONNX Runtime GenAI's builder cannot write {model_type!r} correctly; supported: {', '.join(MODEL_TYPES)}"
        )
    with torch.device("meta"):
        known = {name for name, _ in _build(quantized.model.config).named_parameters()}
    if odd := known ^ {entry.parameter for entry in entries(quantized)}:
        return f"the method added or removed {min(odd)!r}, which the builder's {model_type} cannot express"
    return None


def plain_model(quantized: QuantizedModel) -> PreTrainedModel:
    """The model as a plain transformers model in float32, with dequantized weights."""
    plain = _build(quantized.model.config)
    state = {entry.parameter: entry.dense() for entry in entries(quantized)}
    plain.load_state_dict(state, strict=False)  # a tied head is listed once
    plain.tie_weights()
    plain.generation_config = quantized.model.generation_config
    plain.train(False)
    return plain


def write_float_graph(plain: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `model.onnx`, its data, the tokenizer and `genai_config.json` into `folder`, and check the graph.

    Raises:
        RefusedError: The builder fails, or its graph computes other logits than the model.
    """
    from onnxruntime_genai.models import builder

    with tempfile.TemporaryDirectory(dir=folder) as temporary, _silence():
        source, cache = Path(temporary, "model"), str(Path(temporary, "cache"))
        generation, plain.generation_config = plain.generation_config, GenerationConfig()
        plain.save_pretrained(source)
        if generation is not None:  # written separately: `save_pretrained` refuses settings that have no effect
            generation.to_json_file(source / GENERATION_CONFIG_NAME)
            plain.generation_config = generation
        tokenizer.save_pretrained(source)
        place = ("", str(source), str(folder), "fp32", "cpu", cache)
        fails = guarded(lambda why: f"onnx: ONNX Runtime GenAI's builder fails on this model ({why})", RefusedError)
        with fails:
            options = builder.parse_extra_options(*place, ["shared_embeddings=false", "windowed_kv_cache=false"])
            _as_the_builder_expects_(options["hf_details"]["hf_config"])
            builder.create_model(*place, **options)
    runs = "onnx: ONNX Runtime cannot run the graph that the builder made of this model"
    with guarded(lambda why: f"{runs} ({why})", RefusedError):
        _check(plain, folder)


def _build(config: PretrainedConfig) -> PreTrainedModel:
    build = AutoModelForCausalLM.from_config
    return cast(PreTrainedModel, build(config, dtype=torch.float32))  # type: ignore[no-untyped-call]  # unannotated


def _as_the_builder_expects_(config: PretrainedConfig) -> None:
    """Convert a configuration of transformers 5 to the form of older versions, which the builder reads."""
    rotary = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rotary:  # Gemma 3: separate bases for local and global layers
        config.rope_local_base_freq = rotary["sliding_attention"]["rope_theta"]
        config.rope_parameters = rotary["full_attention"]
        config.rope_theta = rotary["full_attention"]["rope_theta"]
    if getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None):
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers


@torch.no_grad()
def _check(plain: PreTrainedModel, folder: Path) -> None:
    """Compare logits on random tokens, more than fit into a short sliding window."""
    config = plain.config
    window = getattr(config, "sliding_window", None) or 0
    count = min(_PROBED_TOKENS + (window if window <= _LARGEST_WINDOW else 0), config.max_position_embeddings)
    tokens = torch.randint(0, config.vocab_size, (count,), generator=torch.Generator().manual_seed(0))
    expected = plain(tokens[None]).logits[0].float()
    decoder = Decoder(folder, threads=torch.get_num_threads(), context=count)
    got = torch.from_numpy(decoder.feed(tokens.tolist(), every=True))
    decoder.close()
    off = float((got - expected).abs().max() / expected.std())
    if not off <= _TOLERANCE:
        raise RefusedError(
            f"onnx: the graph that ONNX Runtime GenAI's builder made of this {config.model_type} computes other logits "
            f"than the model: off by {off:.2g} standard deviations, {_TOLERANCE} allowed"
        )


class _silence:  # noqa: N801  # used like a function, after `with`
    """Suppress the builder's output and transformers' progress bars."""

    def __enter__(self) -> None:
        self._streams = (redirect_stdout(StringIO()), redirect_stderr(StringIO()))
        for stream in self._streams:
            stream.__enter__()
        logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        for stream in self._streams:
            stream.__exit__(None, None, None)
        logging.enable_progress_bar()
