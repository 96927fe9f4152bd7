"""The float graph of a model, made by ONNX Runtime GenAI's own builder (`onnxruntime_genai.models.builder`, MIT).

The builder writes attention as one fused operator with rotary positions and a cache that need not be copied, which no
tracing export gives. It knows architectures by name and can be wrong about one without a word: it reads
configurations as an older transformers wrote them, ignores Mistral's window and multiplies OLMo's norms. So what it
expects of a configuration is put back, and every graph is run beside the model before anything is made of it.
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
"""Architectures that the builder is known to write rightly."""
GRAPH = "model.onnx"
_PROBED_TOKENS = 64
_LARGEST_WINDOW = 1024
_TOLERANCE = 0.01
"""Of the logits' standard deviation; approximations of GELU stay within a third of it, what is wrong is far outside."""


def architecture_refusal(quantized: QuantizedModel) -> str | None:
    """Why there is no graph for such a model; None where the builder may be asked."""
    model_type = quantized.model.config.model_type
    if model_type not in MODEL_TYPES:
        return f"ONNX Runtime GenAI's builder does not write {model_type!r} rightly; it does {', '.join(MODEL_TYPES)}"
    with torch.device("meta"):
        known = {name for name, _ in _build(quantized.model.config).named_parameters()}
    if odd := known ^ {entry.parameter for entry in entries(quantized)}:
        return f"the method gave or took the model's {min(odd)!r}, which the builder's {model_type} cannot express"
    return None


def plain_model(quantized: QuantizedModel) -> PreTrainedModel:
    """The same model as transformers knows it, in float32, with what its codes stand for as its weights."""
    plain = _build(quantized.model.config)
    state = {
        entry.parameter: entry.value.float() if entry.quantized is None else entry.quantized.dequantize()
        for entry in entries(quantized)
    }
    plain.load_state_dict(state, strict=False)  # the tied head is not named twice
    plain.tie_weights()
    plain.generation_config = quantized.model.generation_config
    plain.train(False)
    return plain


def write_float_graph(plain: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `model.onnx`, its data, the tokenizer and `genai_config.json` into `folder`, and try the graph.

    Raises:
        RefusedError: The builder fails, or its graph computes something else.
    """
    from onnxruntime_genai.models import builder

    with tempfile.TemporaryDirectory(dir=folder) as temporary, _silence():
        source, cache = Path(temporary, "model"), str(Path(temporary, "cache"))
        generation, plain.generation_config = plain.generation_config, GenerationConfig()
        plain.save_pretrained(source)
        if generation is not None:  # as it is: `save_pretrained` refuses settings that have no effect
            generation.to_json_file(source / GENERATION_CONFIG_NAME)
            plain.generation_config = generation
        tokenizer.save_pretrained(source)
        place = ("", str(source), str(folder), "fp32", "cpu", cache)
        fails = guarded(lambda why: f"onnx: ONNX Runtime GenAI's builder fails on this model ({why})", RefusedError)
        with fails:
            options = builder.parse_extra_options(*place, ["shared_embeddings=false", "windowed_kv_cache=false"])
            _as_the_builder_expects_(options["hf_details"]["hf_config"])
            builder.create_model(*place, **options)
    runs = "onnx: ONNX Runtime cannot run the graph that the builder makes of this model"
    with guarded(lambda why: f"{runs} ({why})", RefusedError):
        _check(plain, folder)


def _build(config: PretrainedConfig) -> PreTrainedModel:
    build = AutoModelForCausalLM.from_config
    return cast(PreTrainedModel, build(config, dtype=torch.float32))  # type: ignore[no-untyped-call]  # unannotated


def _as_the_builder_expects_(config: PretrainedConfig) -> None:
    """Say in the words of older configurations what transformers 5 says in its own."""
    rotary = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rotary:  # Gemma 3: a base for local layers, another for global ones
        config.rope_local_base_freq = rotary["sliding_attention"]["rope_theta"]
        config.rope_parameters = rotary["full_attention"]
        config.rope_theta = rotary["full_attention"]["rope_theta"]
    if getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None):
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers


@torch.no_grad()
def _check(plain: PreTrainedModel, folder: Path) -> None:
    """Compare logits on random tokens, more of them than a short window holds."""
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
            f"onnx: the graph that ONNX Runtime GenAI's builder makes of this {config.model_type} computes other "
            f"logits than the model, off by {off:.2g} of their standard deviation where {_TOLERANCE} is allowed"
        )


class _silence:  # noqa: N801  # read as a function, after `with`
    """The builder prints its progress, and transformers draws bars."""

    def __enter__(self) -> None:
        self._streams = (redirect_stdout(StringIO()), redirect_stderr(StringIO()))
        for stream in self._streams:
            stream.__enter__()
        logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        for stream in self._streams:
            stream.__exit__(None, None, None)
        logging.enable_progress_bar()
