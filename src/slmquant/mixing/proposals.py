"""Swaps of types that predictions do not decide: they fit, and their predicted cost is within its error.

A prediction is off by a factor `1 + ρ z` for each weight and for each class of weights, `z` standard normal and `ρ` as
large as what classes were off by when they were measured. A swap that changes the predicted losses by `δ_w` then costs

    Σ_w δ_w ± ρ √(Σ_w δ_w² + Σ_classes (Σ_{w in class} δ_w)²)

and is worth a measurement by its expected improvement, the mean of what it gains where it gains (Jones, Schonlau and
Welch, "Efficient Global Optimization", Journal of Global Optimization 13, 1998).

Proposed are the best mixtures for losses of one class that are larger, or smaller, by `1 + ρ`, and exchanges of bytes
between two weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from slmquant.mixing.choose import Room, solve
from slmquant.mixing.sensitivity import Sensitivity

Chosen = Mapping[str, str]
"""Weight → type."""


@dataclass(frozen=True)
class Proposal:
    """A swap to measure.

    Attributes:
        types: Weight → its new type.
        cost: Predicted increase of the divergence, in nats.
        error: Standard error of that prediction.
    """

    types: Chosen
    cost: float
    error: float

    @property
    def worth(self) -> float:
        """Expected improvement, in nats."""
        return float(_worth(np.array(self.cost), np.array(self.error)))


@dataclass(frozen=True)
class _Move:
    """Another type for one weight, with the change of its bytes, of its time and of its predicted loss."""

    weight: str
    type: str
    bytes: int
    seconds: float
    loss: float


def prediction_error(sensitivity: Sensitivity) -> float:
    """By how much a predicted loss is off, relatively: the root mean square over the classes that were measured."""
    factors = [one.factor for one in sensitivity.classes.values() if one.measured > 0]
    return math.sqrt(fmean(math.log(factor) ** 2 for factor in factors)) if factors else 0.0


def proposals(sensitivity: Sensitivity, room: Room, chosen: Chosen) -> list[Proposal]:
    """Every swap of a mixture that is worth a measurement, the most promising first.

    Args:
        sensitivity: Predicted losses, and how well classes were predicted.
        room: Bytes of each weight, and how many there may be.
        chosen: The mixture.
    """
    classes = {title: one.linears for title, one in sensitivity.classes.items()}
    classes |= {name: (name,) for name in sensitivity.losses.keys() - {n for names in classes.values() for n in names}}
    error = prediction_error(sensitivity)
    found: dict[frozenset[tuple[str, str]], Proposal] = {}
    for types in (*_of_classes(sensitivity, classes, error, room, chosen), *_exchanges(sensitivity, room, chosen)):
        changes = {name: _change(sensitivity, name, chosen[name], kind) for name, kind in types.items()}
        shared = [sum(changes.get(name, 0.0) for name in names) for names in classes.values()]
        spread = error * math.hypot(*changes.values(), *shared)
        proposal = Proposal(types, sum(changes.values()), spread)
        if types and proposal.cost <= proposal.error:
            found[frozenset(types.items())] = proposal
    return sorted(found.values(), key=lambda proposal: -proposal.worth)


def _of_classes(
    sensitivity: Sensitivity, classes: Mapping[str, tuple[str, ...]], error: float, room: Room, chosen: Chosen
) -> Iterator[Chosen]:
    """The changes that the solver would make if a class cost more, or less, than predicted."""
    for names in classes.values():
        for factor in (1 + error, 1 / (1 + error)) if error > 0 else ():
            losses = {
                name: {kind: loss * (factor if name in names else 1.0) for kind, loss in several.items()}
                for name, several in sensitivity.losses.items()
            }
            solved = solve(losses, room).chosen
            yield {name: one.type for name, one in solved.items() if one.type != chosen[name]}


def _exchanges(sensitivity: Sensitivity, room: Room, chosen: Chosen) -> Iterator[Chosen]:
    """A smaller type for one weight and a larger one for another; each weight in one exchange, its best."""
    moves = [move for name, kind in chosen.items() for move in _neighbours(sensitivity, room, name, kind)]
    downs, ups = [move for move in moves if move.bytes < 0], [move for move in moves if move.bytes > 0]
    if not downs or not ups:
        return
    fits = np.add.outer([move.bytes for move in downs], [move.bytes for move in ups]) <= room.bytes - room.taken(chosen)
    slack = room.max_seconds - room.seconds(chosen)
    fits &= np.add.outer([move.seconds for move in downs], [move.seconds for move in ups]) <= slack
    fits &= np.array([[down.weight != up.weight for up in ups] for down in downs])
    down_losses, up_losses = (np.array([move.loss for move in several]) for several in (downs, ups))
    worth = _worth(
        np.add.outer(down_losses, up_losses),
        prediction_error(sensitivity) * np.sqrt(2 * np.add.outer(down_losses**2, up_losses**2)),
    )
    used: set[str] = set()
    for place in np.argsort(-np.where(fits, worth, -1.0), axis=None):
        row, column = divmod(int(place), len(ups))
        down, up = downs[row], ups[column]
        if not fits[row, column]:
            return
        if not used & {down.weight, up.weight}:
            used |= {down.weight, up.weight}
            yield {down.weight: down.type, up.weight: up.type}


def _neighbours(sensitivity: Sensitivity, room: Room, name: str, kind: str) -> Iterator[_Move]:
    """The next smaller and the next larger type of a weight."""
    sizes = room.sizes[name]
    for sign in (-1, 1):
        beyond = [other for other in sizes if sign * (sizes[other] - sizes[kind]) > 0]
        if beyond:
            nearest = min(beyond, key=lambda other: (sign * sizes[other], sensitivity.losses[name][other]))
            seconds = room.seconds({name: nearest}) - room.seconds({name: kind})
            change = _change(sensitivity, name, kind, nearest)
            yield _Move(name, nearest, sizes[nearest] - sizes[kind], seconds, change)


def _change(sensitivity: Sensitivity, name: str, old: str, new: str) -> float:
    return sensitivity.losses[name][new] - sensitivity.losses[name][old]


def _worth(cost: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected improvement of swaps that cost `cost ± error`."""
    scaled = np.clip(cost / np.maximum(error, 1e-300), -1e100, 1e100)  # whose squares are finite
    density = np.exp(-(scaled**2) / 2) / math.sqrt(2 * math.pi)
    worth: NDArray[np.float64] = np.where(error > 0, error * (density - scaled * ndtr(-scaled)), np.maximum(-cost, 0.0))
    return worth
