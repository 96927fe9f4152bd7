"""QuaRot whose two searches look at the loss that is left: scales of weights, and clipping of activations.

Ours, from `quarot` and `gptq_mse`. Rotations are those of QuaRot. Weights are rounded by sequential GPTQ under scales
that keep the loss small which GPTQ leaves, where QuaRot's own search counts all weights alike. The share of a token's
range to which activations are rounded is searched once for the whole model: of five, the one whose rounded
activations, with weights still exact, move the model's predictions least on calibration text.

Deviations: as `quarot`, but for these two.

Cost: as `quarot`, with 21 roundings of each weight in place of 80, and six forward passes over eight windows.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.methods.quarot import HadamardRotation

METHOD = Recipe(
    title="QuaRot-MSE",
    summary="QuaRot under scales searched for the loss that GPTQ leaves, with a searched clipping of activations.",
    reference="ours; cf. Ashkboos et al., NeurIPS 2024, arXiv 2404.00456",
    transforms=(HadamardRotation(activation_clip="searched"),),
    blocks=SequentialGptq(Gptq(scales="loss")),
)
