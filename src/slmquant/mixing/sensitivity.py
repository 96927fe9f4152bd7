"""Sensitivity of a model: the divergence that each of its weights causes in each type of GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
import transformers
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.cache.entries import entry_path, get
from slmquant.cache.write import About, put
from slmquant.calib.calibration import Calibration
from slmquant.calib.statistics import Statistic
from slmquant.calib.texts import draw_texts
from slmquant.errors import RefusedError
from slmquant.methods.common.mixed import weight_names
from slmquant.methods.common.parts import Rounding
from slmquant.mixing.candidates import ClassOfLinears, Types, correct_, round_embeddings, storage
from slmquant.mixing.curvature import curvatures
from slmquant.mixing.linears import round_linears
from slmquant.model.computing.modes import ComputeMode
from slmquant.model.running.trial import Trial, stored_weight
from slmquant.model.structure import Relations
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.schemes import GgufType
from slmquant.schemes.numbers import GgufName
from slmquant.store.record import Budget, CalibrationSpec

_VERSION = 3
"""Raised when sensitivities are computed differently, so that older ones are not read."""
_LEFT_OUT = frozenset({"Q2_K", "Q4_0", "Q4_1"})
"""Types that are not tried: two bits cost more than they save in models of this size, IQ4_NL has better numbers for the
bytes of Q4_0, and Q4_1 lies between IQ4_NL and Q5_0, where a mixture of both serves as well."""
_SLOW = frozenset({"IQ3_S", "IQ3_XXS", "IQ2_S"})
"""Types that only `paper` tries: each takes about as long to round to as all others together."""
CURVATURE_WINDOWS = 4
"""Windows whose gradients are kept."""
EVERY: Mapping[Budget, int] = {"fast": 4, "paper": 1}
"""How many blocks there are for each that is rounded to every type; losses of the others are estimated."""


class Sensitivity(BaseModel):
    """The divergence that each weight causes in each type, and the classes that the predictions were corrected by."""

    model_config = ConfigDict(frozen=True)

    losses: dict[str, dict[str, float]]
    """Weight → type → divergence, in nats per token."""
    classes: dict[str, ClassOfLinears]
    """What classes of linears were predicted and measured to cause."""
    elements: dict[str, int]
    """Weight → its number of elements."""
    error: float | None = None
    """Relative error of losses that were estimated from those of other blocks; None if all weights were rounded to all
    types, or too few were to tell."""


@dataclass(frozen=True)
class SensitivityJob:
    """Whose sensitivity to measure, and how.

    Attributes:
        source: The model.
        model_key: Its cache key.
        corpus_sha256: Hash of the calibration corpus.
        method: The method that rounds.
        calibration: The calibration set.
        mode: What products are computed in.
        places: Where the cache is.
        budget: Decides which types are tried, how many blocks are rounded to all of them, and how many swaps measured.
    """

    source: str
    model_key: str
    corpus_sha256: str
    method: str
    calibration: CalibrationSpec
    mode: ComputeMode
    places: Places
    budget: Budget = "fast"


def known_sensitivity(job: SensitivityJob) -> Sensitivity | None:
    """An earlier measurement; None if there is none."""
    content = get(entry_of(job))
    return None if content is None else Sensitivity.model_validate_json(content)


@torch.no_grad()
def measure_sensitivity(
    job: SensitivityJob,
    model: PreTrainedModel,
    relations: Relations,
    types: Types,
    calibration: Calibration,
    progress: Progress,
) -> Sensitivity:
    """Round weights to every type, predict and measure; the result is kept in the cache.

    Args:
        job: How.
        model: The full-precision model; it is unchanged afterwards.
        relations: Its relations.
        types: Weight → the types to try; see `fitting_types`.
        calibration: Text, and statistics of it.
        progress: Receives progress updates.

    Raises:
        RefusedError: The method does not round weight by weight.
        DataError: The text is too short.
    """
    rounding = rounding_of(job.method)
    elements = {name: stored_weight(model, name).numel() for name in types}
    texts = draw_texts(calibration)
    statistics = calibration.statistics(relations, rounding.needs or frozenset[Statistic]({"range"}))
    costs = curvatures(model, relations, texts.choice[:CURVATURE_WINDOWS], progress, job.mode)
    trial = Trial(model, texts.choice, job.mode)
    linears = round_linears(
        model, relations, rounding, types, statistics, costs, trial, progress, every=EVERY[job.budget]
    )
    embeddings = round_embeddings(model, relations, rounding, types, statistics, trial, progress)
    classes = correct_(linears, relations, trial, progress)
    found = Sensitivity(
        losses=linears.losses | embeddings.losses, classes=classes, elements=elements, error=linears.error
    )
    put(entry_of(job), About(job.source, "sensitivity of weights"), found.model_dump_json().encode())
    return found


def rounding_of(method: str) -> Rounding:
    """The rounding of a method that rounds one weight at a time.

    Raises:
        RefusedError: It does not.
    """
    rounding = methods.load(method).tries_types
    if rounding is None:
        raise RefusedError(
            f"{method} does not round one weight at a time, as trying types needs; use slmq, gptq_mse, gptq or rtn"
        )
    return rounding


def tried_types(budget: Budget) -> tuple[str, ...]:
    """The types of GGUF that a budget tries."""
    left_out = _LEFT_OUT | _SLOW if budget == "fast" else _LEFT_OUT
    return tuple(kind for kind in get_args(GgufName) if kind not in left_out)


def fitting_types(model: PreTrainedModel, relations: Relations, method: str, budget: Budget) -> dict[str, list[str]]:
    """Weight → the types that its rows fit into, that the method rounds to and the budget tries.

    Raises:
        RefusedError: None fits a weight.
    """
    rounding = rounding_of(method)
    tried = [kind for kind in tried_types(budget) if rounding.refusal(storage(kind)) is None]
    found: dict[str, list[str]] = {}
    for name in weight_names(relations):
        row = stored_weight(model, name).shape[1]
        found[name] = [kind for kind in tried if row % GgufType(kind).row_multiple == 0]
        if not found[name]:
            raise RefusedError(f"no type of GGUF fits {name!r}, whose rows have {row} numbers")
    return found


def entry_of(job: SensitivityJob) -> Path:
    """Its entry of the cache."""
    versions = (torch.__version__, transformers.__version__)
    given = (job.model_key, job.corpus_sha256, job.method, job.calibration.model_dump(), job.mode.name)
    key = [_VERSION, tried_types(job.budget), EVERY[job.budget], *given, *versions]
    return entry_path(job.places.cache_dir, "sensitivity", key)
