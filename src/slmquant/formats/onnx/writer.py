"""ONNX for ONNX Runtime and ONNX Runtime GenAI: a folder with the graph, its tensors, tokenizer and GenAI's settings.

Weights are operands of `com.microsoft.MatMulNBits`, which multiplies with codes of 4 or 8 bits directly: nothing is
rounded a second time. Codes of fewer bits are stored in 4 or 8. A quantized embedding is read by
`GatherBlockQuantized`; a tied one is stored once. Everything else is float16 on disk (norms, biases and rotary tables
float32) and float32 in memory.

Activations: at ONNX Runtime's accuracy level 4, which its fast kernels need and GenAI's builder writes, inputs of
`MatMulNBits` are rounded to 8 bits at run time, with one scale per block of a token. All such models are deployed this
way, and parity says what it costs. A scheme with A8 has one scale per token: there the graph rounds inputs itself, and
`MatMulInteger` multiplies (`channels`), which computes what was evaluated.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from slmquant.artifact import Artifact
from slmquant.boundary import guarded, reading
from slmquant.core.affine import QuantizedTensor
from slmquant.errors import ModelError, UnknownNameError
from slmquant.formats.common.contract import Placement, check_installed
from slmquant.formats.common.entries import Entry, entries, run_time_refusal
from slmquant.formats.common.writing import BaseFormat, Laid
from slmquant.formats.onnx import channels
from slmquant.formats.onnx.blocks import Stored, blocks_of, dense_of, misfit, nearest_int8
from slmquant.formats.onnx.channels import channels_of
from slmquant.formats.onnx.decoder import GENAI_CONFIG
from slmquant.formats.onnx.float_graph import GRAPH, architecture_refusal, plain_model, write_float_graph
from slmquant.formats.onnx.rewrite import Matrix, Rewriting, initializers, save, stored_of
from slmquant.model.computing.quantized_model import QuantizedModel

_FACTS = "slmquant"
_OTHER_TYPES = ("f16", "int8")


class Facts(BaseModel):
    """Origin of the model, stored under `slmquant` in the graph's metadata."""

    model_config = ConfigDict(extra="forbid")
    version: Literal[1] = 1
    slmquant: str
    method: str
    scheme: str
    source: str
    source_sha256: str
    matrices: tuple[Matrix, ...]


class Onnx(BaseFormat[Stored | None]):
    """ONNX as a format. A weight's content is None for vectors, which stay as the builder wrote them."""

    name = "onnx"
    title = "ONNX"
    summary = "a graph with 4- or 8-bit weights for ONNX Runtime and ONNX Runtime GenAI"
    suffix = ""
    extra: str | None = "onnx"

    def refusal(self, quantized: QuantizedModel) -> str | None:
        """Why the model cannot be written; None if it can."""
        activations = quantized.scheme.activations
        if activations is not None and (activations.static or activations.name != "8"):
            return (
                "the graph rounds activations to 8-bit integers with a scale per token, computed at run time, or not "
                f"at all; not to {activations.name}{'-static' if activations.static else ''}"
            )
        if reason := run_time_refusal(quantized, "ONNX Runtime") or architecture_refusal(quantized):
            return reason
        weights = () if activations is None else _multiplied(quantized).values()
        reason = next((why for weight in weights if (why := channels.misfit(weight))), None)
        return reason and f"{quantized.scheme} rounds activations, so integers are multiplied with integers: {reason}"

    def lay_out(self, quantized: QuantizedModel, otherwise: str | None) -> list[Laid[Stored | None]]:
        """The stored weights; `otherwise` is `f16` or `int8` (rounded again, in groups of 32)."""
        if otherwise is not None and otherwise not in _OTHER_TYPES:
            raise UnknownNameError("ONNX weight type", otherwise, _OTHER_TYPES)
        embedding = quantized.model.get_input_embeddings()
        looked_up = {name for name, module in quantized.model.named_modules() if module is embedding}
        integer = {} if quantized.scheme.activations is None else _multiplied(quantized)
        return [
            _laid(entry, channels_of(integer[entry.name]))
            if entry.name in integer
            else _lay(entry, entry.name in looked_up, otherwise)
            for entry in entries(quantized)
        ]

    def save(self, artifact: Artifact, laid: Sequence[Laid[Stored | None]], path: Path) -> None:
        """Write the folder; the float graph's logits are compared with the model's first."""
        check_installed(self.name, self.extra)
        import onnx_ir as ir

        from slmquant._version import __version__

        quantized = artifact.quantized
        stored = {one.placement.name: one.content for one in laid if one.content is not None}
        plain = plain_model(quantized)
        dense = {name: plain.get_submodule(name).get_parameter("weight").detach() for name in stored}
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            floats = Path(temporary)
            write_float_graph(plain, artifact.tokenizer, floats)
            model = ir.load(floats / GRAPH)
            rewriting = Rewriting(model, dense, stored)
            rewriting.apply_()
            facts = Facts(
                slmquant=__version__,
                method=quantized.method,
                scheme=str(quantized.scheme),
                source=artifact.public_source,
                source_sha256=artifact.source_sha256,
                matrices=tuple(rewriting.matrices),
            )
            model.metadata_props[_FACTS] = facts.model_dump_json()
            save(model, path / GRAPH)
            for file in floats.iterdir():
                if file.is_dir():  # additional chat templates
                    shutil.copytree(file, path / file.name)
                elif not file.name.startswith(GRAPH):
                    shutil.copy(file, path / file.name)

    def context_limit(self, path: Path) -> int | None:
        """Tokens of context stated in GenAI's settings.

        Raises:
            ModelError: The settings are damaged.
        """
        stated = path / GENAI_CONFIG
        if not stated.is_file():
            return None
        with reading(stated, "the settings of an ONNX Runtime GenAI model", "export it again"):
            return int(json.loads(stated.read_text(encoding="utf-8"))["model"]["context_length"])

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """Module name → float32 weight; see `Format.read`."""
        check_installed("onnx", self.extra)
        import onnx_ir as ir

        damaged = guarded(lambda why: f"{path} is not an ONNX model from slmquant, or damaged ({why}); export it again")
        with damaged:
            model = ir.load(path / GRAPH)
            facts_text = model.metadata_props[_FACTS]
            tensors = initializers(model)
        try:
            facts = Facts.model_validate_json(facts_text)
        except ValidationError as error:
            raise ModelError(f"{path} has an unknown format version; update slmquant") from error
        return _assembled(facts, tensors)


def _lay(entry: Entry, looked_up: bool, otherwise: str | None) -> Laid[Stored | None]:
    reason: str | None = None
    stored: Stored | None = None
    exact = True
    if entry.quantized is None:
        if entry.value.dim() == 2:
            stored = dense_of(entry.value.detach())
    elif (reason := misfit(entry.quantized, looked_up=looked_up)) is None:
        stored = blocks_of(entry.quantized, looked_up=looked_up)
    else:
        weight = entry.quantized.dequantize()
        fits = not looked_up or weight.shape[1] % 16 == 0
        stored = nearest_int8(weight, looked_up=looked_up) if fits and otherwise != "f16" else dense_of(weight)
        exact = torch.equal(stored.dequantize(), weight)
    return _laid(entry, stored, exact, reason)


def _laid(entry: Entry, stored: Stored | None, exact: bool = True, reason: str | None = None) -> Laid[Stored | None]:
    placement = Placement(
        name=entry.name,
        requested=entry.requested,
        stored_as="f32" if stored is None else stored.type,
        parameters=entry.value.numel(),
        stored_bytes=4 * entry.value.numel() if stored is None else stored.stored_bytes,
        exact=exact,
        reason=reason,
    )
    return Laid(placement, stored)


def _multiplied(quantized: QuantizedModel) -> Mapping[str, QuantizedTensor]:
    """Module name → codes of the linears whose inputs a scheme rounds: all but embedding and head."""
    return {name: weight for name, weight in quantized.weights.items() if name not in quantized.embeddings}


def _assembled(facts: Facts, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Collect the rows of all matrices by module."""
    parts: dict[str, dict[int, Tensor]] = {}
    missing = guarded(lambda why: f"a tensor of the ONNX model is missing or damaged ({why}); export it again")
    with missing:
        for matrix in facts.matrices:
            names = {part: f"{matrix.name}.{part}" for part in ("codes", "scale", "zero_point", "floats")}
            parts_stored = {part: tensors[name] for part, name in names.items() if name in tensors}
            weight = stored_of(parts_stored, matrix).dequantize()
            sizes = [rows.stop - rows.start for rows in matrix.rows]
            for rows, part in zip(matrix.rows, weight.split(sizes), strict=True):
                parts.setdefault(rows.module, {})[rows.start] = part
    return {module: torch.cat([rows[start] for start in sorted(rows)]) for module, rows in parts.items()}


FORMAT = Onnx()
