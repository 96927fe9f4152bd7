"""The share of full precision's accuracy that candidates keep, with draws of the items."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmquant.analysis.score_intervals import resampled_means
from slmquant.recommendation.candidate import Candidate
from slmquant.recommendation.evidence import Observed


@dataclass(frozen=True)
class Kept:
    """The accuracy that a candidate keeps: its mean over tasks, divided by that of full precision.

    Attributes:
        share: The ratio.
        drawn: The same for items drawn with replacement, the same for both.
        tasks: The tasks.
    """

    share: float
    drawn: NDArray[np.float64]
    tasks: tuple[str, ...]


def kept_shares(candidates: Sequence[Observed], reference: Observed | None) -> dict[Candidate, Kept]:
    """The share that each candidate keeps on the tasks that most of them answered; the others are left out."""
    if reference is None:
        return {}
    usable = [tuple(task for task in one.answers if _same_items(one, reference, task)) for one in candidates]
    sets = sorted({frozenset(tasks) for tasks in usable if tasks}, key=sorted)
    if not sets:
        return {}
    chosen = max(sets, key=lambda tasks: (sum(tasks <= set(each) for each in usable), len(tasks)))
    tasks = tuple(task for task in reference.answers if task in chosen)
    members = [one for one, each in zip(candidates, usable, strict=True) if chosen <= set(each)]
    means, drawn = _accuracies([reference, *members], tasks)
    if means[0] <= 0 or (drawn[0] <= 0).any():
        return {}
    return {
        one.candidate: Kept(float(means[row] / means[0]), drawn[row] / drawn[0], tasks)
        for row, one in enumerate(members, start=1)
    }


def _same_items(one: Observed, reference: Observed, task: str) -> bool:
    return one.answers[task].keys() == reference.answers.get(task, {}).keys()


def _accuracies(cells: Sequence[Observed], tasks: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy of each cell, the mean over tasks, and draws of it, `(cells, draws)`."""
    means, draws = [], []
    for task in tasks:
        values = _matrix([one.answers[task] for one in cells])
        means.append(values.mean(axis=1))
        draws.append(resampled_means(values, zlib.crc32(task.encode())))
    return np.mean(means, axis=0), np.mean(draws, axis=0)


def _matrix(of_cells: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    return np.array([[cell[item] for item in of_cells[0]] for cell in of_cells])
