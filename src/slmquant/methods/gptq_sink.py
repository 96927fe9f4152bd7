"""GPTQ whose tokens count alike whatever their energy, with a share of its own for the attention sink.

Ours; no paper. GPTQ minimises the mean squared error over calibration tokens, `H = E[x xᵀ]`, which goes wrong for two
tokens of small models, in opposite ways:

* *A massive activation decides alone.* Where a block makes or removes one (Sun et al., "Massive Activations in Large
  Language Models", COLM 2024, arXiv 2402.17762), one token's input to the down projection is so large that it holds
  most of the trace of `H`; errors are then moved from it to all other tokens. On SmolLM2-135M-Instruct these are blocks
  11 and 28; the row of a method under such a Hessian names them.
* *The sink is one token among many.* All later tokens attend to the key of the first (Xiao et al., "Efficient Streaming
  Language Models with Attention Sinks", ICLR 2024, arXiv 2309.17453), whose input is a rare direction of small energy;
  GPTQ moves errors of the others into it.

Here each token counts by the inverse of its energy, so that its error is relative to its input, and a share `s` of the
trace is the second moment of the first tokens alone:

    H = (1 − s) Ĥ / tr Ĥ + s Ĥ₀ / tr Ĥ₀,    Ĥ = E[x xᵀ / |x|²],    Ĥ₀ = E[x₀ x₀ᵀ / |x₀|²]

Both are cheap cases of weighing a token by what it matters to the predictions (`gptq_importance`, which takes it from
gradients). `gptq_energy` leaves out the share, `gptq_sink_uniform` the weights: what this name stood for before.
Weighting tokens by importance in GPTQ's Hessian is also the idea of RSQ (Sung et al., 2025, arXiv 2503.01820), from
attention scores.

Deviations: as `gptq`.

Cost: as `gptq`, and one vector for each window and distinct input.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq

SINK_SHARE = 0.02
"""Ten times the natural share of one token in 512. Chosen before tokens were weighed, on SmolLM2-135M-Instruct and
WikiText-2, and not tuned again: with weights it is confirmed on C4, which neither it nor calibration had seen."""

METHOD = Recipe(
    title="GPTQ-sink",
    summary="GPTQ whose Hessian counts tokens by relative error, and gives the first, the attention sink, a share.",
    reference="ours; cf. Sung et al., 2025, arXiv 2503.01820",
    rounding=Gptq(weighting="energy", sink_share=SINK_SHARE),
)
