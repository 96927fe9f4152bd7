"""HQQ: fits zero points to the weights alone, robustly, and rounds to nearest; looks at no data.

Badri, Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", Mobius Labs, 2023,
https://mobiusml.github.io/hqq_blog/. Minimises `‖W − Ŵ‖ₚᵖ` with `p = 0.7`, which forgives a few large errors, by
turns: errors are shrunk towards 0, `E ← sign(x) max(0, |x| − |x|^(p−1)/β)` with `x = W − Ŵ` (eq. 3), then the zero
point is fitted to `W − E` in closed form (eq. 4), `β` grows, and weights are rounded again.

Zero points are real numbers, in float16 instead of a code's bits: HQQ's own numbers, and counted in the size. A
symmetric scheme has none to fit and is refused; fitting scales instead was tried on SmolLM2-135M-Instruct and lost to
plain rounding, because it clips the largest weights without knowing what they are for.

Deviations:
    * `β` weighs errors in steps of the group, so that it means the same for weights of any size. In the authors'
      units errors below `β^(−1/(2−p))` = 0.17 count as 0, which is as a rule all of them: least squares remains.
    * Each group keeps the best parameters that it met. The authors stop when the mean error of the tensor no longer
      falls.

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
    """Nearest rounding with zero points that keep most errors small.

    Attributes:
        p: Exponent of the error.
        beta: Weight of the quadratic term at the start.
        growth: What it is multiplied by after each step.
        iterations: How many steps.
    """

    p: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    iterations: int = 20
    needs: frozenset[Statistic] = frozenset()

    def refusal(self, spec: WeightSpec) -> str | None:
        """Only integers with zero points have something to fit."""
        if not isinstance(spec.format, IntegerFormat):
            return f"HQQ fits zero points of integers, and {spec.format.name} has none; use e.g. W4A16g64-asym"
        if spec.format.symmetric:
            return "HQQ fits zero points, and symmetric integers have none; add -asym to the scheme"
        return None

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight`; statistics are not looked at."""
        del statistics
        grid = replace(grid, real_zero_point=True)
        affine = hqq(weight, grid, p=self.p, beta=self.beta, growth=self.growth, iterations=self.iterations)
        return grid.quantize(weight, affine)


METHOD = Recipe(
    title="HQQ",
    summary="Fits zero points to most of the weights, forgiving a few large errors; looks at no data.",
    reference="Badri and Shaji, Mobius Labs, 2023",
    rounding=HalfQuadratic(),
)
