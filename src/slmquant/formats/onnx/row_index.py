"""Find the rows of a model's weights that a matrix consists of, by their values alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor


class Rows(BaseModel):
    """Output channels `start` to `stop` of a module's weight."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    module: str
    start: int
    stop: int


class RowIndex:
    """Index of weight rows by value.

    Args:
        dense: Module name → its weight in float32.
    """

    def __init__(self, dense: Mapping[str, Tensor]) -> None:
        self._dense = {name: np.ascontiguousarray(weight.numpy()) for name, weight in dense.items()}
        self._places: dict[int, list[tuple[str, int]]] = {}
        for name, weight in self._dense.items():
            for row, key in enumerate(map(_key, weight)):
                places = self._places.setdefault(key, [])
                if not places or places[-1][0] != name:  # of equal rows in one weight, the first suffices
                    places.append((name, row))

    def find(self, matrix: NDArray[np.float32]) -> tuple[Rows, ...] | None:
        """The runs of weight rows that a matrix consists of; None if a row is in no weight."""
        runs_found: list[Rows] = []
        start, matrix = 0, np.ascontiguousarray(matrix)
        while start < len(matrix):
            runs = (self._run(matrix[start:], *place) for place in self._places.get(_key(matrix[start]), ()))
            longest = max(runs, key=lambda rows: rows.stop - rows.start, default=None)
            if longest is None or longest.stop == longest.start:
                return None
            runs_found.append(longest)
            start += longest.stop - longest.start
        return tuple(runs_found)

    def _run(self, matrix: NDArray[np.float32], name: str, row: int) -> Rows:
        weight = self._dense[name][row : row + len(matrix)]
        if weight.shape[1] != matrix.shape[1]:
            return Rows(module=name, start=row, stop=row)
        alike = (weight == matrix[: len(weight)]).all(axis=1)
        return Rows(module=name, start=row, stop=row + (len(alike) if alike.all() else int(alike.argmin())))


def _key(row: NDArray[np.float32]) -> int:
    return hash(row.tobytes())
