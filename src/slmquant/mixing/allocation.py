"""Chooses a type for every weight: the least predicted loss under a number of bytes and a time per token.

A multiple-choice knapsack, solved exactly as a mixed-integer program by HiGHS (Huangfu and Hall, "Parallelizing the
dual revised simplex method", Mathematical Programming Computation 10, 2018) through `scipy.optimize.milp`:

    min Σ_w Σ_c x_wc loss_wc    Σ_c x_wc = 1 for every weight,  Σ x_wc bytes_wc ≤ max_bytes,  Σ x_wc s_wc ≤ max_seconds

Losses are predicted for one weight at a time and added up, which holds as long as errors are small; mixtures that the
program prefers by little have to be measured.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from slmquant.errors import NumericalError, RefusedError

_LONGEST_S = 60.0
"""Time limit of the solver; a model of a thousand weights takes seconds."""
_INFEASIBLE = 2
"""The status by which `milp` says that no point is feasible."""
_TOLERANCE = 1e-6
"""Relative excess of time that HiGHS's own tolerance allows; bytes are whole numbers."""


@dataclass(frozen=True)
class Candidate:
    """A type that a weight may get.

    Attributes:
        type: Scheme name of the storage, such as `Q5_0`.
        bytes: Bytes that the weight then takes in the file.
        loss: Predicted divergence that it causes, in nats; at least 0.
        seconds: Predicted time per decoded token.
    """

    type: str
    bytes: int
    loss: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Allocation:
    """The type of every weight, with predictions for the whole model.

    Attributes:
        chosen: Weight → its candidate.
        optimal: Whether no choice is better by the predictions; False if the solver ran out of time.
    """

    chosen: Mapping[str, Candidate]
    optimal: bool

    @property
    def bytes(self) -> int:
        """Bytes of all weights."""
        return sum(candidate.bytes for candidate in self.chosen.values())

    @property
    def loss(self) -> float:
        """Predicted divergence, in nats."""
        return float(sum(candidate.loss for candidate in self.chosen.values()))

    @property
    def seconds(self) -> float:
        """Predicted time per decoded token."""
        return float(sum(candidate.seconds for candidate in self.chosen.values()))


def allocate(
    candidates: Mapping[str, Sequence[Candidate]], max_bytes: int, max_seconds: float = math.inf
) -> Allocation:
    """Choose one candidate for every weight.

    Args:
        candidates: Weight → the types that it may get, at least one.
        max_bytes: Most bytes that all weights together may take.
        max_seconds: Most seconds that they may take per decoded token.

    Raises:
        RefusedError: Even the smallest candidates take more than `max_bytes`, the fastest more than `max_seconds`, or
            none is small and fast enough; the message says what they take.
        NumericalError: A loss or a time is not finite.
    """
    options = [(weight, candidate) for weight, several in candidates.items() for candidate in several]
    for weight, candidate in options:
        if not np.isfinite(candidate.loss) or not np.isfinite(candidate.seconds):
            raise NumericalError(f"the predicted loss of {weight!r} as {candidate.type} is not finite")
    least = sum(min(candidate.bytes for candidate in several) for several in candidates.values())
    if least > max_bytes:
        raise RefusedError(f"{max_bytes} bytes are too few: the smallest types of all weights take {least}")
    fastest = sum(min(candidate.seconds for candidate in several) for several in candidates.values())
    if fastest > max_seconds:
        raise RefusedError(
            f"{_speed(max_seconds)} are too many: the fastest types of all weights decode {_speed(fastest)}"
        )
    costs = np.array([candidate.loss for _, candidate in options])
    # HiGHS's tolerances are absolute, so costs, bytes and seconds are brought near 1.
    scale = float(np.abs(costs).max()) or 1.0
    index = {weight: row for row, weight in enumerate(candidates)}
    rows = [index[weight] for weight, _ in options]
    once = csr_array((np.ones(len(options)), (rows, np.arange(len(options)))), shape=(len(candidates), len(options)))
    limits = [[candidate.bytes / max_bytes for _, candidate in options]]
    if max_seconds < math.inf:
        limits.append([candidate.seconds / max_seconds for _, candidate in options])
    with _without_stdout():
        found = milp(
            costs / scale,
            integrality=np.ones(len(options)),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(once, 1, 1), LinearConstraint(np.array(limits), -np.inf, 1.0)],
            options={"time_limit": _LONGEST_S, "mip_rel_gap": 0.0},
        )
    if found.status == _INFEASIBLE and max_seconds < math.inf:
        raise RefusedError(f"no types of all weights take at most {max_bytes} bytes and decode {_speed(max_seconds)}")
    if found.x is None:
        raise NumericalError(f"the solver found no allocation within {max_bytes} bytes: {found.message}")
    taken = [option for option, share in zip(options, found.x, strict=True) if share > 0.5]
    allocation = Allocation(dict(taken), bool(found.status == 0))
    # HiGHS has called infeasible points optimal (scipy/scipy issue 24141).
    if len(taken) != len(candidates) or allocation.bytes > max_bytes:
        raise NumericalError(f"the solver's allocation takes {allocation.bytes} bytes, not at most {max_bytes}")
    if allocation.seconds > max_seconds * (1 + _TOLERANCE):
        raise NumericalError(f"the solver's allocation decodes {_speed(allocation.seconds)}, not {_speed(max_seconds)}")
    return allocation


def _speed(seconds: float) -> str:
    return f"{1 / seconds:.4g} tokens/s"


@contextmanager
def _without_stdout() -> Iterator[None]:
    """Within this context the process's standard output is discarded.

    HiGHS prints a line of its own even when it is told to print nothing (jump-dev/HiGHS.jl issue 312).
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
