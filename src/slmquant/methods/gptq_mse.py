"""GPTQ with scales that are searched for the loss that it minimises, not taken from the range of each group.

Ours, from two known parts. The search is that of llama.cpp's quantizers (`kquant`): some scales around the one that
covers the range are tried, and a line is fitted through the codes that each gives. GPTQ's own code has a search as
well (`--mse`), which shrinks the range and counts all weights alike. Here an error counts for what GPTQ will make of
it: with `(H + λI)⁻¹ = UᵀU`, columns in the order in which they are rounded, the loss that GPTQ minimises is a sum over
columns,

    tr((W − Ŵ) H (W − Ŵ)ᵀ) = Σ_q e_q² / U_qq²        e_q: the error of column q when its turn comes

so `1 / U_qq²` is what a squared error in column `q` costs after the columns behind it have made up for what they can.
Weights are taken as they are at the start, as errors handed on are not known yet. The Hessian is that of `gptq_sink`;
it matters less here, as a searched scale already makes room for the column that a massive activation reads.
`gptq_mse_uniform` counts tokens alike: what this name stood for before.
Symmetric scales may come out negative: the lowest code reaches one step further than the highest, and the search gives
it to whichever end is larger.

Deviations: as `gptq`; scales never follow the updated weights, whatever the order of the columns.

Cost: as `gptq_sink`, and 21 passes over each weight.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE

METHOD = Recipe(
    title="GPTQ-MSE",
    summary="GPTQ-sink whose scales are searched for the least loss that GPTQ leaves, signs included.",
    reference="ours; cf. Frantar et al., ICLR 2023, arXiv 2210.17323 and llama.cpp pull request 1684",
    rounding=Gptq(weighting="energy", sink_share=SINK_SHARE, scales="loss"),
)
