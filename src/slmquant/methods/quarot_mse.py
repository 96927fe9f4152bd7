"""QuaRot with both searches aimed at the loss: scales of weights, and clipping of activations.

Ours, from `quarot` and `gptq_mse`. Rotations are those of QuaRot. Weights are rounded by sequential GPTQ, with scales
searched for the least loss after GPTQ; QuaRot's own search weights all weights equally. The share of a token's range to
which activations are clipped is searched once for the whole model: of five shares, the one that changes the model's
predictions on calibration text least when activations are rounded and weights are still exact.

Deviations: as `quarot`, except for these two changes.

Cost: as `quarot`, with 21 roundings of each weight in place of 80, and six forward passes over eight windows.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.methods.quarot import HadamardRotation

METHOD = Recipe(
    title="QuaRot-MSE",
    summary="QuaRot with scales searched for the least loss after GPTQ, and a searched clipping of activations.",
    reference="ours; cf. Ashkboos et al., NeurIPS 2024, arXiv 2404.00456",
    transforms=(HadamardRotation(activation_clip="searched"),),
    blocks=SequentialGptq(Gptq(scales="loss")),
)
