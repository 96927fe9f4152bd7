"""GPTQ-MSE, block by block: each block is rounded for the inputs from the rounded blocks before it.

Ours, from `gptq_sequential` and `gptq_mse`: the Hessian and the search for scales are those of `gptq_mse`, the order
and the inputs those of `gptq_sequential`.

Deviations: as `gptq_sequential`.

Cost: as `gptq_sequential`, plus 21 passes over each weight.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.methods.gptq_sink import SINK_SHARE

METHOD = Recipe(
    title="GPTQ-sequential-MSE",
    summary="GPTQ-MSE, block by block, with the Hessians of the rounded blocks' outputs.",
    reference="ours; cf. Frantar et al., ICLR 2023, arXiv 2210.17323",
    blocks=SequentialGptq(Gptq(weighting="energy", sink_share=SINK_SHARE, scales="loss")),
)
