"""SpinQuant with the gradient of its authors' code, in which the scale of a token is a constant.

Liu, Zhao, Fedorov, Soran, Choudhary, Krishnamoorthi, Chandra, Tian, Blankevoort, "SpinQuant: LLM Quantization with
Learned Rotations", ICLR 2025, arXiv 2405.16406. Everything but the gradient is as in `spinquant`, so the two show what
the path through the scale is worth.

Deviations: those of `spinquant`, but the first.

Cost: that of `spinquant`.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.quarot import PUBLISHED_ROUNDING
from slmquant.methods.spinquant import LearnedRotation

METHOD = Recipe(
    title="SpinQuant, scales frozen",
    summary="SpinQuant whose gradient takes the scales of tokens for constants, as the authors' code does.",
    reference="Liu et al., ICLR 2025, arXiv 2405.16406",
    transforms=(LearnedRotation(gradient="frozen"),),
    blocks=PUBLISHED_ROUNDING,
)
