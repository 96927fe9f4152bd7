"""GPTQ with tokens weighted by how much an error there changes the predictions, measured by the loss's gradient.

After GuidedQuant (Kim et al., ICML 2025, arXiv 2505.07004): with `L` the loss of the model and `y_t` the output of a
linear for token `t`,

    H = Σ_t |∂L/∂y_t|² x_t x_tᵀ / Σ_t |∂L/∂y_t|²

Labels are drawn from the model itself, so that the expectation is the second-order term of the divergence and does not
depend on how surprising the text is (`calib.importance`). This weighting distinguishes by itself a massive activation
that matters from one that does not, and an attention sink from an ordinary first token; `gptq_sink` does so by two
rules. On SmolLM2-135M-Instruct first tokens hold three quarters of all weight at queries and keys of the middle blocks.
It is not the default of our methods: the two rules cost nothing, lose no more at four bits and lose less at three
(`plans/weightings.yaml`).

Deviations:
    * One Hessian for all linears that read one input and all their output channels; GuidedQuant makes several, one for
      each group of channels.
    * Labels are drawn from the model, one for each token; GuidedQuant uses the text itself.
    * As `gptq`.

Cost: as `gptq`, plus a forward and a backward pass over the calibration tokens, without gradients of weights but with
logits and labels for all tokens. For a small model these are most of the work: ten times the pass of `gptq` on
stories15m. The activations of 1024 tokens are held in memory. It cannot run block by block.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq

METHOD = Recipe(
    title="GPTQ-importance",
    summary="GPTQ with each token weighted by the squared gradient of the loss at the linear's output.",
    reference="after Kim et al., ICML 2025, arXiv 2505.07004",
    rounding=Gptq(weighting="importance"),
)
