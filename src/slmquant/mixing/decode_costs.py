"""Decode cost of each type: seconds per number of a weight and token, fitted to files that were timed.

A token reads every weight once, so its time is

    Σ_w n_w · cost(type of w)        n_w: numbers in the weight

All mixtures of a model have the same weights. What no type changes (attention, norms, sampling) can therefore not be
told from what all types cost, and is part of every cost; costs of one model are not those of another. An embedding with
a head of its own costs nothing, because one row of it is looked up.

Costs minimise the relative errors of files that have one type wherever it fits. Types that fit few weights change the
time of a file by little more than noise, so no cost is more than `_WIDEST` times that of the first file, or less than
its part. Files with a random type for each weight, which are not fitted, tell how far off predictions are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.optimize import lsq_linear

from slmquant.model.structure import Relations

_WIDEST = 4.0


@dataclass(frozen=True)
class TimedFile:
    """A file that was timed.

    Attributes:
        numbers: Type → how many numbers of weights it has in that type.
        seconds: Time per token.
    """

    numbers: Mapping[str, int]
    seconds: float


class DecodeCosts(BaseModel):
    """What types cost one model on one machine.

    Attributes:
        seconds: Type → seconds per number and token.
        error: Relative error of predictions: the root mean square over files that were not fitted.
        conditions: Engine, processor, threads and context.
    """

    model_config = ConfigDict(frozen=True)

    seconds: dict[str, float]
    error: float
    conditions: str

    def predicted(self, numbers: Mapping[str, int]) -> float:
        """Predicted seconds per token of a file, by type → how many numbers it has."""
        return sum(self.seconds[kind] * count for kind, count in numbers.items())


def fitted(pure: Sequence[TimedFile], mixed: Sequence[TimedFile], conditions: str) -> DecodeCosts:
    """Costs from timed files.

    Args:
        pure: Files to fit, one for each type; the first has one type throughout.
        mixed: Files to tell the error from.
        conditions: Engine, processor, threads and context.
    """
    types = list(dict.fromkeys(kind for file in pure for kind in file.numbers))
    shares = np.array([[file.numbers.get(kind, 0) / file.seconds for kind in types] for file in pure])
    usual = pure[0].seconds / sum(pure[0].numbers.values())
    found = lsq_linear(shares * usual, np.ones(len(pure)), bounds=(1 / _WIDEST, _WIDEST)).x
    seconds = {kind: float(cost) * usual for kind, cost in zip(types, found, strict=True)}
    costs = DecodeCosts(seconds=seconds, error=0.0, conditions=conditions)
    off = [costs.predicted(file.numbers) / file.seconds - 1 for file in mixed]
    return costs.model_copy(update={"error": math.sqrt(fmean(one**2 for one in off))})


def numbers_read(elements: Mapping[str, int], relations: Relations) -> dict[str, int]:
    """Weight → how many of its numbers a token reads: all, or none of an embedding with a head of its own."""
    looked_up = {relations.embedding} - {relations.head_weight}
    return {name: 0 if name in looked_up else count for name, count in elements.items()}
