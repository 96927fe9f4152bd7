"""OpenVINO IR for OpenVINO and OpenVINO GenAI: a folder with the graph, its constants, config and tokenizer.

The graph is traced from the transformers model and keeps its KV cache in states, as GenAI expects. Weights are
constants of 2, 4 or 8 bits that the CPU plugin multiplies without unpacking; nothing is rounded a second time. A scale
takes 16 bits if that is exact, else 32. (OpenVINO's table of NF4 differs from slmquant's by up to 2e-7 of a scale.) A
tied embedding is stored once. Matrices that a scheme does not quantize are float16, vectors float32.

By default OpenVINO rounds activations to 8 bits (in groups of 32) and the cache to 8 bits, neither of which was
evaluated. So the file has runtime options that turn both off, and that every runtime reads when it compiles the graph:
`DYNAMIC_QUANTIZATION_GROUP_SIZE` 0 and `KV_CACHE_PRECISION` f16.

GenAI needs the tokenizer as a graph, too: `convert_tokenizer FOLDER --with-detokenizer -o FOLDER`, from the package
openvino-tokenizers, adds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from slmquant.artifact import Artifact
from slmquant.errors import ModelError, SpaceError, UnknownNameError
from slmquant.formats.common.contract import Placement, ends_of_text
from slmquant.formats.common.entries import Entry, entries, run_time_refusal
from slmquant.formats.common.writing import BaseFormat, Laid
from slmquant.formats.openvino import layout
from slmquant.formats.openvino.check import check
from slmquant.formats.openvino.constants import Stored, read_weights, replace_constants_
from slmquant.formats.openvino.layout import Part
from slmquant.formats.openvino.runtime import GRAPH, import_openvino, open_graph
from slmquant.formats.openvino.trace import cache_refusal, trace
from slmquant.model.computing.quantized_model import QuantizedModel

if TYPE_CHECKING:
    import openvino as ov

VERSION = 1
FACTS = "slmquant"
RUNTIME_OPTIONS = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f16"}
"""Runtime options stored in the file, read by every runtime that compiles it."""
_OTHER_TYPES = ("f16", "f32", "i8")


class Constant(NamedTuple):
    """What replaces the traced constant of a parameter."""

    parameter: str
    weight: Stored


class OpenVino(BaseFormat[Constant | None]):
    """OpenVINO IR as a format. A weight's content is None for vectors, which stay as they were traced."""

    name = "openvino"
    title = "OpenVINO IR"
    summary = "a graph with 2-, 4- or 8-bit weights and a KV cache, for OpenVINO and OpenVINO GenAI"
    suffix = ""
    extra: str | None = "openvino"

    def refusal(self, quantized: QuantizedModel) -> str | None:
        """Why the model cannot be written; None if it can."""
        scheme = quantized.scheme
        if scheme.activations is not None:
            return (
                f"OpenVINO does not round activations to {scheme.activations.name} as evaluated: its own dynamic "
                "quantization uses scales per group of channels; use a scheme with A16"
            )
        rotary = getattr(quantized.model.config, "rope_parameters", None) or {}
        if rotary.get("rope_type") == "dynamic":
            return "the graph would keep the rotary frequencies of short texts, but 'dynamic' scaling changes them"
        return run_time_refusal(quantized, "OpenVINO") or cache_refusal(quantized.model)

    def lay_out(self, quantized: QuantizedModel, otherwise: str | None) -> list[Laid[Constant | None]]:
        """The constants; `otherwise` is `f16`, `f32` (exact) or `i8` (rounded again, per channel)."""
        if otherwise is not None and otherwise not in _OTHER_TYPES:
            raise UnknownNameError("OpenVINO weight type", otherwise, _OTHER_TYPES)
        return [_lay(entry, otherwise) for entry in entries(quantized)]

    def save(self, artifact: Artifact, laid: Sequence[Laid[Constant | None]], path: Path) -> None:
        """Write the folder; the traced graph's logits are compared with the model's first."""
        import_openvino()
        quantized = artifact.quantized
        dense = {name: weight.dequantize() for name, weight in quantized.weights.items()}
        graph = trace(quantized.model, dense)
        check(graph, quantized.model, dense)
        replace_constants_(graph, dict(one.content for one in laid if one.content is not None))
        _describe_(graph, artifact)
        _save(graph, path / GRAPH)
        quantized.model.config.save_pretrained(path)
        if (generation := quantized.model.generation_config) is not None:
            _write_generation(generation, ends_of_text(quantized), path / GENERATION_CONFIG_NAME)
        artifact.tokenizer.save_pretrained(path)

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """Module name → float32 weight; see `Format.read`."""
        graph = open_graph(path)
        version = graph.get_rt_info([FACTS, "version"]).astype(int) if graph.has_rt_info([FACTS, "version"]) else None
        if version is None:
            raise ModelError(f"{path} is not an OpenVINO model from slmquant; export it again")
        if version > VERSION:
            raise ModelError(
                f"{path} has format version {version}, this slmquant reads up to {VERSION}; update slmquant"
            )
        return {name.removesuffix(".weight"): weight for name, weight in read_weights(graph).items()}


def _lay(entry: Entry, otherwise: str | None) -> Laid[Constant | None]:
    weight, dense = entry.quantized, entry.value.detach()
    reason = None if weight is None else layout.misfit(weight)
    stored: Stored | None
    if weight is not None and reason is None:
        stored, exact = layout.compress(weight), True
    else:
        dense = dense if weight is None else weight.dequantize()
        stored = None if dense.dim() == 1 else _dense(dense, otherwise if reason else None)
        exact = stored is None or (isinstance(stored, Part) and torch.equal(stored.values.float(), dense.float()))
    placement = Placement(
        name=entry.name,
        requested=entry.requested,
        stored_as="f32" if stored is None else stored.title,
        parameters=dense.numel(),
        stored_bytes=4 * dense.numel() if stored is None else stored.stored_bytes,
        exact=exact,
        reason=reason,
    )
    return Laid(placement, None if stored is None else Constant(entry.parameter, stored))


def _dense(weight: Tensor, kind: str | None) -> Stored:
    """Store a matrix without codes, or whose codes do not fit: as `kind`, by default float16 unless it overflows."""
    if kind == "i8":
        return layout.nearest_i8(weight)
    half = weight.half()
    overflows = not torch.isfinite(half).all()  # beyond float16's range
    return Part(weight, "f32") if kind == "f32" or overflows else Part(half, "f16")


def _describe_(graph: ov.Model, artifact: Artifact) -> None:
    """Add runtime options and the model's origin to the graph."""
    from slmquant._version import __version__

    for option, value in RUNTIME_OPTIONS.items():
        graph.set_rt_info(value, ["runtime_options", option])
    facts = {
        "version": str(VERSION),
        "slmquant": __version__,
        "method": artifact.quantized.method,
        "scheme": str(artifact.quantized.scheme),
        "source": artifact.public_source,
        "source_sha256": artifact.source_sha256,
    }
    for name, fact in facts.items():
        graph.set_rt_info(fact, [FACTS, name])


def _write_generation(generation: GenerationConfig, ends: Sequence[int], path: Path) -> None:
    """Write generation settings, including those without effect, which `save_pretrained` refuses.

    OpenVINO GenAI reads a single number in `eos_token_id` and ignores a list, so several are written to
    `stop_token_ids`.
    """
    generation.to_json_file(path)
    if len(ends) > 1:
        content = json.loads(path.read_text(encoding="utf-8")) | {"stop_token_ids": list(ends)}
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save(graph: ov.Model, path: Path) -> None:
    """Write the graph without compressing its float32 constants.

    Raises:
        SpaceError: OpenVINO's output stream failed; it states no cause.
    """
    try:
        import_openvino().save_model(graph, path, compress_to_fp16=False)
    except RuntimeError as raised:
        if "iostream error" in str(raised):
            raise SpaceError(f"{path.name} could not be written completely; free some disk space") from raised
        raise


FORMAT = OpenVino()
