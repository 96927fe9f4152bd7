"""GPTQ with scales searched for the loss it minimises, instead of taken from the range of each group.

Ours, from two known parts. The search is that of llama.cpp's quantizers (`kquant`): it tries some scales around the one
that covers the range, and fits a line through the codes of each. GPTQ's own code has a search as well (`--mse`), which
shrinks the range and weights all weights equally. Here the weight of an error is its cost after GPTQ: with
`(H + λI)⁻¹ = UᵀU` and columns in the order of rounding, the loss that GPTQ minimises is a sum over columns,

    tr((W − Ŵ) H (W − Ŵ)ᵀ) = Σ_q e_q² / U_qq²        e_q: the error of column q when it is rounded

so `1 / U_qq²` is the cost of a squared error in column `q` after the following columns have compensated what they can.
The search uses the original weights, because the errors passed on by earlier columns are not known yet. The Hessian is
that of `gptq_sink`; it matters less here, because a searched scale already makes room for the column that reads a
massive activation. `gptq_mse_uniform` weights all tokens equally, as this method did in earlier versions.
Symmetric scales may be negative: the lowest code reaches one step further than the highest, and the search assigns it
to the larger end.

Deviations: as `gptq`; scales never follow the updated weights, whatever the order of the columns.

Cost: as `gptq_sink`, plus 21 passes over each weight.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE

METHOD = Recipe(
    title="GPTQ-MSE",
    summary="GPTQ-sink with scales and their signs searched for the least loss after GPTQ.",
    reference="ours; cf. Frantar et al., ICLR 2023, arXiv 2210.17323 and llama.cpp pull request 1684",
    rounding=Gptq(weighting="energy", sink_share=SINK_SHARE, scales="loss"),
)
