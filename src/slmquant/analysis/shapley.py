"""Arithmetic of full factorials: Shapley values of what factors cause, and their effects on a logarithm.

Cells are numbered: cell `c` has factor `i` if bit `i` of `c` is set, so that cell 0 has none and the last one all.

With `v(S)` the value of the cell with the factors `S`, the Shapley value of factor `i` is its mean contribution over
all orders in which factors may be added (Shapley, "A Value for n-Person Games", 1953):

    φ_i = Σ_{S without i} |S|! (n − |S| − 1)! / n! · (v(S with i) − v(S)),    Σ_i φ_i = v(all) − v(none).

If contributions add up, it is what the factor causes alone.

Effects are the coefficients of a least-squares fit of the logarithms over all cells but the first, whose value is 0 or
noise. Factors are coded −½ and ½, so an effect is the mean change of the logarithm when the factor is added, and an
interaction of two is the change of either's effect when the other is added. Interactions of more are left out.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from slmquant.analysis.window_means import Array

Factors = tuple[int, ...]
"""One factor for a main effect, two for an interaction."""


def shapley_weights(count: int) -> Array:
    """Weights that turn the values of all cells into the Shapley values of `count` factors, `(factors, cells)`."""
    weights = np.zeros((count, 2**count))
    for factor, cell in itertools.product(range(count), range(2**count)):
        others = (cell & ~(1 << factor)).bit_count()
        weight = math.factorial(others) * math.factorial(count - others - 1) / math.factorial(count)
        weights[factor, cell] = weight if cell >> factor & 1 else -weight
    return weights


def effect_weights(count: int) -> dict[Factors, Array]:
    """Weights that turn the logarithms of all cells but the first into effects, `(cells − 1,)` each.

    Interactions need three factors: two have as many cells as a mean and two effects.

    Raises:
        ValueError: There are fewer than two factors.
    """
    if count < 2:
        raise ValueError(f"{count} factors have no effects to tell apart; give at least two")
    coded = np.array([[(cell >> factor & 1) - 0.5 for factor in range(count)] for cell in range(1, 2**count)])
    columns: dict[Factors, Array] = {(): np.ones(2**count - 1)}
    columns |= {(factor,): coded[:, factor] for factor in range(count)}
    if count > 2:
        columns |= {(a, b): coded[:, a] * coded[:, b] for a, b in itertools.combinations(range(count), 2)}
    solved = np.linalg.pinv(np.stack(list(columns.values()), axis=1))
    return {factors: weights for factors, weights in zip(columns, solved, strict=True) if factors}
