"""Many tests at once: p-values corrected so that a whole table errs no more often than one test."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979).

    Calling different whatever has a corrected p below α errs anywhere in the table with a probability of at most α,
    however the tests depend on each other. With one test the p stays as it is.

    Raises:
        ValueError: A p is not between 0 and 1.
    """
    corrected: dict[K, float] = {}
    largest = 0.0
    for place, (key, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        if not 0 <= p <= 1:
            raise ValueError(f"the p of {key!r} is {p}; expected 0 to 1")
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        corrected[key] = largest
    return {key: corrected[key] for key in p_values}
