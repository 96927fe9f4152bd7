"""Chooses a mixture for a number of file bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from slmquant import methods
from slmquant.artifact import Artifact
from slmquant.calib.calibration import NoCalibration
from slmquant.errors import RefusedError
from slmquant.mixing.allocation import Allocation, Candidate, allocate
from slmquant.mixing.decode_costs import DecodeCosts
from slmquant.mixing.file_bytes import other_bytes, tensor_bytes
from slmquant.mixing.sensitivity import Sensitivity
from slmquant.model.running.trial import stored_weight
from slmquant.model.sources.load import LoadedModel
from slmquant.quantization import quantize_
from slmquant.schemes import Scheme
from slmquant.schemes.mixture_file import WeightType


@dataclass(frozen=True)
class Point:
    """A mixture of the front.

    Attributes:
        file_bytes: Most bytes of its file.
        tokens_per_s: Predicted speed.
        divergence: Predicted divergence, in nats per token.
        types: Weight → type.
    """

    file_bytes: int
    tokens_per_s: float
    divergence: float
    types: Mapping[str, str]

    def is_beaten_by(self, other: Point) -> bool:
        """Whether another is at least as good in all three, and better in one."""
        better = (
            self.file_bytes - other.file_bytes,
            other.tokens_per_s - self.tokens_per_s,
            self.divergence - other.divergence,
        )
        return min(better) >= 0 and max(better) > 0


@dataclass(frozen=True)
class Choice:
    """A mixture for a number of bytes, and what it was chosen by.

    Attributes:
        weights: Weight → its type, with the reason.
        file_bytes: Most bytes of the GGUF file.
        predicted: Predicted divergence, in nats per token.
        optimal: Whether no mixture is better by the predictions, but for swaps that were measured.
        notes: What measurements decided.
        seconds: Predicted time per decoded token; None if time did not matter.
        costs: What types cost; None likewise.
        front: Other mixtures of at most as many bytes, by size and speed; empty if time did not matter.
    """

    weights: Mapping[str, WeightType]
    file_bytes: int
    predicted: float
    optimal: bool
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    costs: DecodeCosts | None = None
    front: tuple[Point, ...] = ()

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
    """What weights may take: bytes of a file, and time per decoded token.

    Attributes:
        sizes: Weight → type → bytes.
        others: Most bytes of everything else in the file.
        max_bytes: Most bytes of the file.
        times: Weight → type → seconds per token; empty if time does not matter.
        max_seconds: Most seconds per token.
    """

    sizes: Mapping[str, Mapping[str, int]]
    others: int
    max_bytes: int
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    max_seconds: float = math.inf

    @property
    def bytes(self) -> int:
        """Most bytes of all weights."""
        return self.max_bytes - self.others

    def taken(self, types: Mapping[str, str]) -> int:
        """Bytes of all weights in these types."""
        return sum(self.sizes[name][kind] for name, kind in types.items())

    def seconds(self, types: Mapping[str, str]) -> float:
        """Predicted time per token of all weights in these types; 0 if time does not matter."""
        return sum(self.times[name][kind] for name, kind in types.items()) if self.times else 0.0

    def holds(self, types: Mapping[str, str]) -> bool:
        """Whether weights of these types fit."""
        return self.taken(types) <= self.bytes and self.seconds(types) <= self.max_seconds


def room_for(source: str, loaded: LoadedModel, method: str, types: Mapping[str, Sequence[str]], max_bytes: int) -> Room:
    """The room for weights in a file of at most `max_bytes`.

    Args:
        source: The model, as the user named it.
        loaded: The full-precision model, which is left as it is.
        method: The method that the file will name.
        types: Weight → types that it may get.
        max_bytes: Most bytes of the file.

    Raises:
        RefusedError: No file is as small, or one in 16 bits is; or GGUF does not hold the model.
    """
    elements = {name: stored_weight(loaded.model, name).numel() for name in types}
    reference = quantize_(loaded.model, methods.REFERENCE, Scheme(), NoCalibration())
    others = other_bytes(Artifact(reference, loaded.tokenizer, source, loaded.sha256), elements, method)
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
        seconds=solved.seconds if room.times else None,
    )


def swapped(choice: Choice, types: Mapping[str, str], sensitivity: Sensitivity, room: Room) -> Choice:
    """A choice with other types for some weights, because measurements prefer them."""
    now = {**choice.types, **types}
    others = {name: _reasoned(sensitivity, name, kind, ", measured swap") for name, kind in types.items()}
    return replace(
        choice,
        weights={**choice.weights, **others},
        file_bytes=room.others + room.taken(now),
        predicted=sum(sensitivity.losses[name][kind] for name, kind in now.items()),
        seconds=room.seconds(now) if room.times else None,
    )


def solve(losses: Mapping[str, Mapping[str, float]], room: Room) -> Allocation:
    """The types with the least sum of losses that fit."""
    return allocate(
        {
            name: [
                Candidate(kind, room.sizes[name][kind], loss, room.times[name][kind] if room.times else 0.0)
                for kind, loss in several.items()
            ]
            for name, several in losses.items()
        },
        room.bytes,
        room.max_seconds,
    )


def _reasoned(sensitivity: Sensitivity, name: str, kind: str, more: str = "") -> WeightType:
    return WeightType(type=kind, why=f"predicted {sensitivity.losses[name][kind]:.2g} nats{more}")
