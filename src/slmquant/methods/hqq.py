"""HQQ: fits zero points robustly to the weights and rounds to nearest; needs no data.

Badri, Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", Mobius Labs, 2023,
https://mobiusml.github.io/hqq_blog/. Minimises `‖W − Ŵ‖ₚᵖ` with `p = 0.7`, which tolerates a few large errors, in
alternating steps: errors are shrunk towards 0, `E ← sign(x) max(0, |x| − |x|^(p−1)/β)` with `x = W − Ŵ` (eq. 3), then
the zero point is fitted to `W − E` in closed form (eq. 4), `β` grows, and weights are rounded again.

Zero points are real numbers in float16 instead of integers with as many bits as a code, as in HQQ itself; the reported
size includes them. Symmetric schemes are refused, as they have no zero points. Fitting scales instead was tried on
SmolLM2-135M-Instruct and lost to plain rounding, because it clips the largest weights without knowing their inputs.

Deviations:
    * `β` is relative to the step of each group, so that it means the same for weights of any size. In the authors'
      units, errors below `β^(−1/(2−p))` = 0.17 count as 0. As a rule these are all errors, so that only least squares
      remains.
    * Each group keeps the best parameters found. The authors stop when the mean error of the tensor no longer falls.

Cost: no data; 20 roundings of every weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.hqq import hqq
from slmquant.methods.common.recipe import Recipe
from slmquant.schemes.scheme import IntegerFormat, WeightSpec


@dataclass(frozen=True)
class HalfQuadratic:
    """Rounds to nearest with zero points fitted to keep most errors small.

    Attributes:
        p: Exponent of the error.
        beta: Initial weight of the quadratic term.
        growth: Factor by which `beta` grows after each step.
        iterations: Number of steps.
    """

    p: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    iterations: int = 20
    needs: frozenset[Statistic] = frozenset()

    def refusal(self, spec: WeightSpec) -> str | None:
        """Refuse all but integers with zero points."""
        if not isinstance(spec.format, IntegerFormat):
            return f"HQQ fits zero points of integers, and {spec.format.name} has none; use e.g. W4A16g64-asym"
        if spec.format.symmetric:
            return "HQQ fits zero points, and symmetric integers have none; add -asym to the scheme"
        return None

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight`; statistics are ignored."""
        del statistics
        grid = replace(grid, real_zero_point=True)
        affine = hqq(weight, grid, p=self.p, beta=self.beta, growth=self.growth, iterations=self.iterations)
        return grid.quantize(weight, affine)


METHOD = Recipe(
    title="HQQ",
    summary="Fits zero points so that most errors are small, tolerating a few large ones; needs no data.",
    reference="Badri and Shaji, Mobius Labs, 2023",
    rounding=HalfQuadratic(),
)
