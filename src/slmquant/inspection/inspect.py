"""Inspects a model: anatomy, weights, and activations on a short text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from slmquant.calib.corpora import Corpus, calibration_corpus, load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.errors import ModelError
from slmquant.inspection.activations import Activations, inspect_activations
from slmquant.inspection.anatomy import anatomy_of, check_scheme
from slmquant.inspection.defaults import SCHEMES, WINDOW_TOKENS, WINDOWS
from slmquant.inspection.roles import roles_of
from slmquant.inspection.weights import inspect_weights
from slmquant.machine.memory import lacking_memory
from slmquant.model.compatibility.context import fitting
from slmquant.model.discovery.relations import discover
from slmquant.model.sources.load import LoadedModel, identify, load
from slmquant.model.sources.resolve import public_name
from slmquant.model.structure import Relations
from slmquant.progress import Progress, Silent
from slmquant.schemes import Scheme, parse
from slmquant.store.inspected import Inspection
from slmquant.store.record import CalibrationSpec

__all__ = ["inspect"]

_LONGEST_NAME = 24


def inspect(
    source: str,
    *,
    schemes: Sequence[str | Scheme] = SCHEMES,
    text: CalibrationSpec | None = None,
    anatomy_only: bool = False,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Look into a full-precision model: its anatomy and sizes, its weights, and its activations on a short text.

    Args:
        source: A known name, a hub id, a folder or a GGUF file.
        schemes: Schemes that sizes are shown for, beside 16 bits.
        text: The text; by default 8 windows of 512 tokens of the corpus that `quantize` calibrates on.
        anatomy_only: Look at no numbers and read no text.
        data_dir: Local folder of data, tried before packages and the hub.
        progress: Receives progress updates.

    Raises:
        SlmquantError: It cannot be done; the message says why and what to do.
    """
    progress = progress or Silent()
    parsed = [parse(scheme) if isinstance(scheme, str) else scheme for scheme in schemes]
    for scheme in parsed:
        check_scheme(scheme)
    if (reason := lacking_memory(identify(source, progress).card.parameters)) is not None:
        raise ModelError(f"{source} cannot be inspected here: {reason}")
    spec = text or CalibrationSpec(corpus=calibration_corpus(data_dir), num_samples=WINDOWS, seq_len=WINDOW_TOKENS)
    corpus = None if anatomy_only else load_corpus(spec.corpus, data_dir, progress)
    loaded = load(source, progress=progress)
    windows = None if corpus is None else _windows(loaded, corpus, spec)
    progress.start("discover the structure", None)
    relations = discover(loaded.model)
    found = Inspection(
        model=public_name(source),
        model_sha256=loaded.sha256,
        card=loaded.card,
        anatomy=anatomy_of(loaded.model, relations, parsed),
        remarks=loaded.remarks,
    )
    if corpus is None or windows is None:
        return found
    measured = found.model_copy(
        update={"text": spec.model_copy(update={"seq_len": windows.shape[1]}), "data": corpus.card}
    )
    return _measured(measured, loaded, relations, windows, progress)


def _windows(loaded: LoadedModel, corpus: Corpus, spec: CalibrationSpec) -> Int[Tensor, "samples seq"]:
    """The windows of a text for a model, shortened to its context if need be."""
    length = fitting(spec.seq_len, loaded.model.config)
    return calibration_windows(loaded.tokenizer, corpus, spec.num_samples, length, spec.seed)


def _measured(
    found: Inspection,
    loaded: LoadedModel,
    relations: Relations,
    windows: Int[Tensor, "samples seq"],
    progress: Progress,
) -> Inspection:
    """The inspection with figures of weights and activations."""
    roles = roles_of(loaded.model, relations)
    weights = inspect_weights(loaded.model, relations, roles, progress)

    def token_text(token: int) -> str:
        return repr(loaded.tokenizer.decode([token]))[1:-1][:_LONGEST_NAME]

    remarks, activations = list(found.remarks), Activations()
    try:
        activations = inspect_activations(loaded.model, relations, roles, windows, token_text, progress)
    except ModelError as error:
        remarks.append(f"activations were not measured: {error}")
    if activations.stream and not activations.attention:
        remarks.append("attention was not observed: this architecture computes it outside transformers' registry")
    return found.model_copy(
        update={
            "weights": weights,
            "inputs": tuple(activations.inputs),
            "stream": tuple(activations.stream),
            "attention": tuple(activations.attention),
            "super_weights": tuple(activations.super_weights),
            "remarks": tuple(remarks),
        }
    )
