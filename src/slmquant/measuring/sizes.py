"""Bytes of a model's files in every scheme, before any of them is made.

Of GGUF the bytes are those of each tensor, and of everything else in a file that is written once as a rehearsal
(`mixing.file_bytes`); a file is at most so large, and smaller by a kilobyte or two, as the rehearsal lists every type.
Without an engine they are those of the stored weights (`model.size`). For other formats only refusals are known before
a file is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.artifact import Artifact
from slmquant.boundary import or_none
from slmquant.cache.entries import entry_path, get
from slmquant.cache.write import About, put
from slmquant.calib.calibration import NoCalibration
from slmquant.errors import RefusedError, SlmquantError
from slmquant.methods.common.mixed import described, specs_of, weight_names
from slmquant.mixing.file_bytes import other_bytes, tensor_bytes
from slmquant.mixing.sensitivity import fitting_types
from slmquant.model.computing.grids import grid_of
from slmquant.model.discovery.relations import discover
from slmquant.model.running.trial import stored_weight
from slmquant.model.size import count_parameters
from slmquant.model.sources.configuration import read_configuration
from slmquant.model.sources.identity import key_of
from slmquant.model.sources.load import LoadedModel, identify, load
from slmquant.model.structure import Relations
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.quantization import quantize_
from slmquant.recommendation.space import CHOOSING, Proposal
from slmquant.runs.sketch import sketch
from slmquant.schemes import GgufType, Scheme, parse
from slmquant.schemes.scheme import FULL_PRECISION_BITS

_VERSION = 3
"""Raised when bytes are counted differently."""
_LEAST = "least"


class Sizes(BaseModel):
    """What is known of a model's files before they are made."""

    model_config = ConfigDict(frozen=True)

    counted: dict[str, int]
    """Scheme → bytes, as far as they are known; `W16A16` is full precision."""
    refused: dict[str, str]
    """`method/scheme` that model or format cannot have → why."""
    least: int | None
    """Bytes of the smallest file that can be made; None if that is not known."""
    parameters: int
    """Parameters of the model."""


@dataclass(frozen=True)
class SizesJob:
    """Whose files, of which format.

    Attributes:
        source: The model.
        format: The format.
        proposals: What could be made.
        places: Where the cache is.
    """

    source: str
    format: str
    proposals: tuple[Proposal, ...]
    places: Places


def count_sizes(job: SizesJob, progress: Progress) -> Sizes:
    """Bytes and refusals of all proposals; an earlier count is read from the cache.

    Raises:
        SlmquantError: The model cannot be used, or the format cannot hold it at all.
    """
    named = sorted({(one.method, one.scheme) for one in job.proposals if one.scheme is not None})
    path = entry_path(job.places.cache_dir, "sizes", [_VERSION, job.format, key_of(job.source), named])
    if (known := get(path)) is not None:
        return Sizes.model_validate_json(known)
    progress.start("count the bytes of files", None)
    schemes = sorted({scheme for _, scheme in named})
    refused = _refusals(job, named)
    loaded = load(job.source)
    relations = discover(loaded.model)
    counted = _file_sizes(job, loaded, relations, schemes) if job.format == "gguf" else {}
    if job.format == "native":
        counted = {name: stored_bytes(parse(name), loaded.model, relations) for name in (*schemes, str(Scheme()))}
    sizes = {scheme: count for scheme, count in counted.items() if isinstance(count, int)}
    least = sizes.pop(_LEAST, None) or min(sizes.values(), default=None)
    for method, scheme in named:
        if isinstance(reason := counted.get(scheme), str):
            refused[f"{method}/{scheme}"] = reason
    found = Sizes(counted=sizes, refused=refused, least=least, parameters=identify(job.source).card.parameters)
    put(path, About(job.source, f"bytes of {job.format} files"), found.model_dump_json().encode())
    return found


def _refusals(job: SizesJob, named: list[tuple[str, str]]) -> dict[str, str]:
    """`method/scheme` → why it is refused, as far as that shows without weights."""
    drawn = or_none(lambda: sketch(read_configuration(identify(job.source).folder)))
    refused = {}
    for method, scheme in named:
        reason = None if drawn is None else drawn.refusal(method, scheme)
        if reason is None and drawn is not None and job.format != "native":
            reason = drawn.format_refusal(job.format, method, scheme)
        if reason is not None:
            refused[f"{method}/{scheme}"] = reason
    return refused


def stored_bytes(scheme: Scheme, model: PreTrainedModel, relations: Relations) -> int | str:
    """Bytes of the stored weights under a scheme, from the shapes of the weights; the reason if it does not fit."""
    try:
        specs = specs_of(scheme, relations, model)
    except RefusedError as error:
        return str(error)
    rounded, bits = 0, 0
    for name, spec in specs.items():
        rows = stored_weight(model, name)
        row = grid_of(spec).quantize(rows[:1].float())
        bits += row.stored_bits * len(rows)
        rounded += rows.numel()
    bits += (count_parameters(model) - rounded) * FULL_PRECISION_BITS
    return math.ceil(bits / 8)


def _file_sizes(job: SizesJob, loaded: LoadedModel, relations: Relations, schemes: list[str]) -> dict[str, int | str]:
    """Scheme → most bytes of its GGUF file, or why there is none."""
    rows = {name: stored_weight(loaded.model, name).shape for name in weight_names(relations)}
    elements = {name: shape.numel() for name, shape in rows.items()}
    longest = max((one.method for one in job.proposals), key=len)
    types = {scheme: _types(parse(scheme), loaded.model, relations) for scheme in schemes}
    fitting = fitting_types(loaded.model, relations, CHOOSING, "fast")
    reference = quantize_(loaded.model, methods.REFERENCE, Scheme(), NoCalibration())
    artifact = Artifact(reference, loaded.tokenizer, job.source, loaded.sha256)
    others = other_bytes(artifact, elements, longest)
    found: dict[str, int | str] = {
        str(Scheme()): others + sum(tensor_bytes("F16", count) for count in elements.values())
    }
    smallest = (min(tensor_bytes(kind, elements[name]) for kind in kinds) for name, kinds in fitting.items())
    found[_LEAST] = others + sum(smallest)
    for scheme, of_weights in types.items():
        if isinstance(of_weights, str):
            found[scheme] = of_weights
            continue
        misfit = next((n for n, kind in of_weights.items() if kind != "F16" and _misfits(kind, rows[n][1])), None)
        if misfit is not None:
            found[scheme] = f"{misfit!r} has rows of {rows[misfit][1]}, which {of_weights[misfit]} does not hold"
        else:
            found[scheme] = others + sum(tensor_bytes(kind, elements[name]) for name, kind in of_weights.items())
    return found


def _types(scheme: Scheme, model: PreTrainedModel, relations: Relations) -> dict[str, str] | str:
    """Weight → its type in the file; or why the scheme gives none."""
    try:
        types = described(scheme, relations, model)
    except SlmquantError as error:
        return str(error)
    full = str(Scheme())
    return {name: "F16" if kind.type == full else kind.type for name, kind in types.items()}


def _misfits(kind: str, row: int) -> bool:
    return bool(row % GgufType(kind).row_multiple)
