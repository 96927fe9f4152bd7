"""Chooses a mixture for a number of file bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slmquant import methods
from slmquant.artifact import Artifact
from slmquant.calib.calibration import NoCalibration
from slmquant.errors import RefusedError
from slmquant.mixing.allocation import Allocation, Candidate, allocate
from slmquant.mixing.file_bytes import other_bytes, tensor_bytes
from slmquant.mixing.sensitivity import Sensitivity
from slmquant.model.sources.load import load
from slmquant.model.structure import Relations
from slmquant.quantization import quantize_
from slmquant.schemes import Scheme
from slmquant.schemes.mixture_file import WeightType


@dataclass(frozen=True)
class Choice:
    """A mixture for a number of bytes, and what it was chosen by.

    Attributes:
        weights: Weight → its type, with the reason.
        file_bytes: Most bytes of the GGUF file.
        predicted: Predicted divergence, in nats per token.
        optimal: Whether no mixture is better by the predictions, but for swaps that were measured.
        notes: What measurements decided.
    """

    weights: Mapping[str, WeightType]
    file_bytes: int
    predicted: float
    optimal: bool
    notes: tuple[str, ...] = ()

    @property
    def types(self) -> dict[str, str]:
        """Weight → its type."""
        return {name: kind.type for name, kind in self.weights.items()}

    @property
    def scheme(self) -> Scheme:
        """The mixture as a scheme."""
        return Scheme.of_table({name: kind.spec for name, kind in self.weights.items()})


@dataclass(frozen=True)
class Room:
    """How many bytes of a file are left for its weights.

    Attributes:
        sizes: Weight → type → bytes.
        others: Most bytes of everything else in the file.
        max_bytes: Most bytes of the file.
    """

    sizes: Mapping[str, Mapping[str, int]]
    others: int
    max_bytes: int

    @property
    def bytes(self) -> int:
        """Most bytes of all weights."""
        return self.max_bytes - self.others

    def taken(self, types: Mapping[str, str]) -> int:
        """Bytes of all weights in these types."""
        return sum(self.sizes[name][kind] for name, kind in types.items())


def room_for(
    source: str,
    method: str,
    relations: Relations,
    types: Mapping[str, list[str]],
    elements: Mapping[str, int],
    max_bytes: int,
) -> Room:
    """The room for weights in a file of at most `max_bytes`.

    Args:
        source: The model.
        method: The method that the file will name.
        relations: The model's relations.
        types: Weight → types that it may get.
        elements: Weight → its number of elements.
        max_bytes: Most bytes of the file.

    Raises:
        RefusedError: No file is as small, or one in 16 bits is; or GGUF does not hold the model.
    """
    loaded = load(source)
    reference = quantize_(loaded.model, methods.REFERENCE, Scheme(), NoCalibration())
    others = other_bytes(Artifact(reference, loaded.tokenizer, source, loaded.sha256), elements, method, relations)
    sizes = {name: {kind: tensor_bytes(kind, elements[name]) for kind in several} for name, several in types.items()}
    least = others + sum(min(several.values()) for several in sizes.values())
    if least > max_bytes:
        raise RefusedError(
            f"a file of {source} takes at least {least / 1e6:.2f} MB, {others / 1e6:.2f} of which are not weights; "
            f"{max_bytes / 1e6:.2f} MB are too few"
        )
    whole = others + 2 * sum(elements.values())
    if max_bytes >= whole:
        raise RefusedError(
            f"{max_bytes / 1e6:.2f} MB hold {source} in 16 bits ({whole / 1e6:.2f} MB), so there is nothing to choose; "
            "use method none"
        )
    return Room(sizes, others, max_bytes)


def choose(sensitivity: Sensitivity, room: Room) -> Choice:
    """The types with the least predicted divergence that fit."""
    solved = solve(sensitivity.losses, room)
    return Choice(
        {name: _reasoned(sensitivity, name, one.type) for name, one in solved.chosen.items()},
        room.others + solved.bytes,
        solved.loss,
        solved.optimal,
    )


def swapped(choice: Choice, types: Mapping[str, str], sensitivity: Sensitivity, room: Room) -> Choice:
    """A choice with other types for some weights, because measurements prefer them."""
    now = choice.types | types
    others = {name: _reasoned(sensitivity, name, kind, ", measured swap") for name, kind in types.items()}
    return replace(
        choice,
        weights={**choice.weights, **others},
        file_bytes=room.others + room.taken(now),
        predicted=sum(sensitivity.losses[name][kind] for name, kind in now.items()),
    )


def solve(losses: Mapping[str, Mapping[str, float]], room: Room) -> Allocation:
    """The types with the least sum of losses that fit."""
    return allocate(
        {
            name: [Candidate(kind, room.sizes[name][kind], loss) for kind, loss in several.items()]
            for name, several in losses.items()
        },
        room.bytes,
    )


def _reasoned(sensitivity: Sensitivity, name: str, kind: str, more: str = "") -> WeightType:
    return WeightType(type=kind, why=f"predicted {sensitivity.losses[name][kind]:.2g} nats{more}")
