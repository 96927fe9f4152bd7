"""Multiple testing: p-values corrected for the family-wise error of a table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979).

    Rejecting every test with a corrected p below α makes any false rejection in the table at most α likely, however the
    tests depend on each other. A single p is unchanged.

    Raises:
        ValueError: A p is not between 0 and 1.
    """
    corrected: dict[K, float] = {}
    largest = 0.0
    for place, (key, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        if not 0 <= p <= 1:
            raise ValueError(f"p-value of {key!r} is {p}; expected 0 to 1")
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        corrected[key] = largest
    return {key: corrected[key] for key in p_values}
