"""SpinQuant with the gradient of its authors' code, which treats the scale of a token as a constant.

Liu, Zhao, Fedorov, Soran, Choudhary, Krishnamoorthi, Chandra, Tian, Blankevoort, "SpinQuant: LLM Quantization with
Learned Rotations", ICLR 2025, arXiv 2405.16406. Everything except the gradient is as in `spinquant`, so the comparison
of the two shows the effect of differentiating through the scale.

Deviations: those of `spinquant`, except the first.

Cost: that of `spinquant`.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.quarot import PUBLISHED_ROUNDING
from slmquant.methods.spinquant import LearnedRotation

METHOD = Recipe(
    title="SpinQuant, scales frozen",
    summary="SpinQuant with the scales of tokens treated as constants in the gradient, as in the authors' code.",
    reference="Liu et al., ICLR 2025, arXiv 2405.16406",
    transforms=(LearnedRotation(gradient="frozen"),),
    blocks=PUBLISHED_ROUNDING,
)
