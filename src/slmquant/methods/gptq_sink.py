"""GPTQ with the attention sink counted for what it matters, not for how often it occurs.

Ours; no paper. GPTQ minimises the mean error over calibration tokens. In every window one token, the first, becomes
the attention sink: all later tokens attend to its key (Xiao et al., "Efficient Streaming Language Models with
Attention Sinks", ICLR 2024, arXiv 2309.17453), yet it is one token in 512, and small models spend much of their
attention on it. Plain GPTQ therefore buys accuracy on the many with errors on the one: measured on
SmolLM2-135M-Instruct at W4A16g64, the relative squared error of `k_proj` at the first token rose from 1 % with
plain rounding to 21 % in block 15, in the natural column order, while that of all others fell from 0.9 % to 0.1 %
(`benchmarks/sink.py` prints the table).
Here a share of the Hessian is the second moment of the first tokens alone:

    H = (1 − s) · E[x xᵀ] + s · E[x₀ x₀ᵀ]

Weighting tokens by importance in GPTQ's Hessian is also the idea of RSQ (Sung et al., 2025, arXiv 2503.01820), which
derives the weights from attention scores; a fixed share of the first token is our simplification.

Deviations: as `gptq`.

Cost: as `gptq`, and one vector for each window and distinct input.
"""

from __future__ import annotations

from slmquant.methods._base import Recipe
from slmquant.methods.gptq import Gptq

SINK_SHARE = 0.02
"""Ten times the natural share of one token in 512; the best of 0.01, 0.02 and 0.05 on SmolLM2-135M-Instruct."""

METHOD = Recipe(
    title="GPTQ-sink",
    summary="GPTQ whose Hessian gives the first token of each window, the attention sink, a share of its own.",
    reference="ours; cf. Sung et al., 2025, arXiv 2503.01820",
    rounding=Gptq(sink_share=SINK_SHARE),
)
