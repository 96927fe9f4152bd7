"""GPTQ with tokens weighted by the inverse of their energy, and a share reserved for the attention sink.

Ours; no paper. GPTQ minimises the mean squared error over calibration tokens, `H = E[x xᵀ]`, which fails for two kinds
of tokens in small models, in opposite ways:

* *A massive activation dominates.* Where a block creates or removes one (Sun et al., "Massive Activations in Large
  Language Models", COLM 2024, arXiv 2402.17762), one token's input to the down projection is so large that it holds
  most of the trace of `H`; GPTQ then moves errors from it to all other tokens. On SmolLM2-135M-Instruct this happens in
  blocks 11 and 28; the row of a method with such a Hessian names them.
* *The sink is one token among many.* All later tokens attend to the key of the first (Xiao et al., "Efficient Streaming
  Language Models with Attention Sinks", ICLR 2024, arXiv 2309.17453). Its input is a rare direction of small energy,
  and GPTQ moves errors of the other tokens into it.

Here each token is weighted by the inverse of its energy, so that its error is relative to its input, and a share `s` of
the trace is reserved for the second moment of the first tokens:

    H = (1 − s) Ĥ / tr Ĥ + s Ĥ₀ / tr Ĥ₀,    Ĥ = E[x xᵀ / |x|²],    Ĥ₀ = E[x₀ x₀ᵀ / |x₀|²]

Both are cheap approximations of weighting a token by its importance for the predictions (`gptq_importance` computes it
from gradients). `gptq_energy` leaves out the share; `gptq_sink_uniform` leaves out the weights, as this method did in
earlier versions. RSQ (Sung et al., 2025, arXiv 2503.01820) also weights tokens by importance in GPTQ's Hessian, from
attention scores.

Deviations: as `gptq`.

Cost: as `gptq`, plus one vector for each window and distinct input.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq

SINK_SHARE = 0.02
"""Ten times the natural share of one token in 512. Chosen before tokens were weighted, on SmolLM2-135M-Instruct and
WikiText-2, and not tuned since. On top of the weights it helps in four bits on unseen text of both kinds, and costs
loss in three (docs/findings.md)."""

METHOD = Recipe(
    title="GPTQ-sink",
    summary="GPTQ that weights tokens by relative error and reserves a share for the first, the attention sink.",
    reference="ours; cf. Sung et al., 2025, arXiv 2503.01820",
    rounding=Gptq(weighting="energy", sink_share=SINK_SHARE),
)
