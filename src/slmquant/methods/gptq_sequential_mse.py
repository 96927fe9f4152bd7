"""GPTQ-MSE block after block: each is met with the inputs that the rounded blocks before it give.

Ours, from `gptq_sequential` and `gptq_mse`: the Hessian and the search for scales are those of `gptq_mse`, the order
and the inputs those of `gptq_sequential`.

Deviations: as `gptq_sequential`.

Cost: as `gptq_sequential`, and 21 passes over each weight.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.methods.gptq_sink import SINK_SHARE

METHOD = Recipe(
    title="GPTQ-sequential-MSE",
    summary="GPTQ-MSE block after block, under the Hessians of what the rounded blocks before give.",
    reference="ours; cf. Frantar et al., ICLR 2023, arXiv 2210.17323",
    blocks=SequentialGptq(Gptq(weighting="energy", sink_share=SINK_SHARE, scales="loss")),
)
