"""GPTQ whose tokens count for what an error at them does to the model's predictions, by the loss's gradient.

After GuidedQuant (Kim et al., ICML 2025, arXiv 2505.07004): with `L` the loss of the model and `y_t` what a linear
makes of token `t`,

    H = Σ_t |∂L/∂y_t|² x_t x_tᵀ / Σ_t |∂L/∂y_t|²

Labels are drawn from the model itself, so that the expectation is that of the divergence's second order, not of how
surprising the text is (`calib.importance`). It tells by itself a massive activation that matters from one that does
not, and an attention sink from an ordinary first token, which `gptq_sink` does by two rules. On SmolLM2-135M-Instruct
first tokens hold three quarters of all weight at queries and keys of the middle blocks. It is not the default of our
methods: the two rules cost nothing, and lost no more at four bits and less at three (`plans/weightings.yaml`).

Deviations:
    * One Hessian for all linears that read one input and all their output channels; GuidedQuant makes several, for
      groups of channels.
    * Labels are drawn, one for each token, where GuidedQuant takes the text.
    * As `gptq`.

Cost: as `gptq`, and a forward and a backward pass over the calibration tokens, without gradients of weights but with
logits and labels for all of them, which for a small model are most of the work: ten times the pass of `gptq` on
stories15m. The activations of 1024 tokens in memory. Not block by block.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq

METHOD = Recipe(
    title="GPTQ-importance",
    summary="GPTQ whose Hessian counts a token by the squared gradient of the loss at its output.",
    reference="after Kim et al., ICML 2025, arXiv 2505.07004",
    rounding=Gptq(weighting="importance"),
)
