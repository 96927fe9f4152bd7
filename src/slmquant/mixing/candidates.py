"""Candidates: weights that are really rounded to every type, with the divergence that each causes.

Linears are rounded to every type by the method that will round them in the end, and their errors are priced by the
second order of the divergence (`mixing.curvature`). Embedding and head are few and large, so their divergence is
measured. Predictions are then corrected by measurements of whole classes: of each kind of linear (`v_proj`), and of all
linears of the first and of the last eighth of the blocks. Each linear of a class is measured in the type of most
predicted loss: single weights, and types of many bits, cause too little to be measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel

from slmquant.calib.statistics import Statistics, embedding_inputs
from slmquant.core.affine import QuantizedTensor
from slmquant.methods.common.parts import Rounding
from slmquant.mixing.extension import kind_of
from slmquant.model.computing.grids import grid_of
from slmquant.model.running.trial import Trial, stored_weight
from slmquant.model.structure import Relations
from slmquant.progress import Progress, track
from slmquant.schemes import parse
from slmquant.schemes.scheme import WeightSpec

Types = Mapping[str, Sequence[str]]
"""Weight → scheme names of the types that it may get."""


class ClassOfLinears(BaseModel):
    """What the linears of a class together were predicted and measured to cause, in nats per token."""

    model_config = ConfigDict(frozen=True)

    linears: tuple[str, ...]
    """Their names."""
    predicted: float
    """Sum of the predictions."""
    measured: float
    """Measured divergence."""

    @property
    def factor(self) -> float:
        """Measured over predicted."""
        return self.measured / self.predicted if self.predicted > 0 else 1.0


class Sample(NamedTuple):
    """Codes that a weight's class is measured with.

    Attributes:
        codes: The codes.
        loss: Predicted divergence that they cause, in nats per token.
    """

    codes: QuantizedTensor
    loss: float


@dataclass
class Candidates:
    """Weights rounded to every type that they may get.

    Attributes:
        losses: Weight → type → divergence that it causes, in nats per token.
        samples: Weight → what its class is measured with: of the types whose loss was predicted, that of most loss.
        measured: Weights and types whose loss was measured.
        kept: Weight → type → codes; empty unless all are kept.
        error: Relative error of losses that were estimated from other weights; None if none were.
    """

    losses: dict[str, dict[str, float]]
    samples: dict[str, Sample] = field(default_factory=dict)
    measured: set[tuple[str, str]] = field(default_factory=set)
    kept: dict[str, dict[str, QuantizedTensor]] = field(default_factory=dict)
    error: float | None = None

    @classmethod
    def of(cls, names: Iterable[str]) -> Candidates:
        """No candidates yet."""
        return cls({name: {} for name in names})

    def add(self, name: str, kind: str, codes: QuantizedTensor, loss: float, keep: bool) -> None:
        """Add a candidate."""
        self.losses[name][kind] = loss
        if keep:
            self.kept.setdefault(name, {})[kind] = codes

    def sample(self, name: str, codes: QuantizedTensor, loss: float) -> None:
        """Offer codes of a predicted loss for the measurement of the class."""
        if name not in self.samples or loss >= self.samples[name].loss:
            self.samples[name] = Sample(codes, loss)

    def multiply(self, names: Iterable[str], factor: float) -> None:
        """Multiply all losses of some weights that were not measured."""
        for name in names:
            for kind in self.losses[name]:
                if (name, kind) not in self.measured:
                    self.losses[name][kind] *= factor
            if name in self.samples:
                self.samples[name] = self.samples[name]._replace(loss=self.samples[name].loss * factor)


def round_embeddings(
    model: PreTrainedModel,
    relations: Relations,
    rounding: Rounding,
    types: Types,
    statistics: Statistics,
    trial: Trial,
    progress: Progress,
    *,
    keep: bool = False,
) -> Candidates:
    """Candidates of embedding and head, with measured losses.

    Args:
        model: The full-precision model.
        relations: Their names.
        rounding: Rounds a weight, given the statistics that it needs.
        types: Types of each.
        statistics: Statistics of the head's inputs; the rows of an embedding are looked up.
        trial: Measures.
        progress: Receives progress updates.
        keep: Whether to keep the codes of all candidates.
    """
    names = dict.fromkeys(filter(None, (relations.embedding, relations.head_weight)))
    found = Candidates.of(names)
    tries = [(name, kind) for name in names for kind in types[name]]
    for name, kind in track(tries, "try types of embedding and head", progress):
        inputs = embedding_inputs(name, relations, statistics)
        codes = rounding.round(stored_weight(model, name).float(), grid_of(storage(kind)), inputs)
        found.add(name, kind, codes, float(trial.divergence({name: codes}).mean()), keep)
    return found


def correct_(linears: Candidates, relations: Relations, trial: Trial, progress: Progress) -> dict[str, ClassOfLinears]:
    """Measure the classes of linears and correct the losses by them: first the kinds, then both ends of the model.

    Args:
        linears: Candidates of all linears; their losses are changed.
        relations: The order of the blocks.
        trial: Measures.
        progress: Receives progress updates.

    Returns:
        Each class, with what was predicted when it was measured.
    """
    kinds: dict[str, list[str]] = {}
    for name in linears.samples:
        kinds.setdefault(kind_of(name), []).append(name)
    eighth = len(relations.blocks) // 8
    ends = {
        "first eighth": relations.blocks[:eighth],
        "last eighth": relations.blocks[len(relations.blocks) - eighth :],
    }
    classes = kinds | {
        end: [name for name in linears.samples if name.startswith(tuple(f"{block}." for block in blocks))]
        for end, blocks in ends.items()
        if blocks
    }
    found = {}
    for title, names in track(list(classes.items()), "measure classes of linears", progress):
        predicted = sum(linears.samples[name].loss for name in names)
        measured = float(trial.divergence({name: linears.samples[name].codes for name in names}).mean())
        found[title] = ClassOfLinears(linears=tuple(names), predicted=predicted, measured=measured)
        linears.multiply(names, found[title].factor)
    return found


def storage(kind: str) -> WeightSpec:
    """The storage that a type's scheme name stands for."""
    spec = parse(kind).weights
    assert spec is not None  # noqa: S101  # types name weights
    return spec
