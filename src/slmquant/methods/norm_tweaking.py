"""Norm tweaking: after rounding a block, tunes the gains of its norms to restore its outputs' mean and variance.

Li et al., "Norm Tweaking: High-Performance Low-Bit Quantization of Large Language Models", AAAI 2024,
arXiv 2309.02784. With `μ` and `σ²` the mean and the variance of a channel over all tokens of a batch, in the
full-precision model (f) and in the quantized one (q), Adam minimises

    L = 1/C · Σ_c |μ_f − μ_q| + |σ²_f − σ²_q|

over the gains and biases of the block's norms, with one step for each batch and the step size
`lr · (1 + growth · l / L)` in block `l` of `L`. Weights are rounded by GPTQ first, block by block.

Deviations:
    * Calibration text is a corpus, the same as for every other method; the authors let the model generate it.
    * Each channel's terms are divided by its standard deviation and its variance in the full-precision model. On
      small models a few channels of the residual stream are thousands of times larger than the others and would
      dominate the sum.
    * A batch is about 2048 tokens, because means and variances of a single short window are too noisy. At the paper's
      step size this means so few steps that no gain changes by more than some ten-thousandths; expect results close to
      those of `gptq_sequential`.
    * All norms inside a block are tuned, those of queries and keys included, but only gains and biases per channel;
      a model whose norms have none is rounded as by `gptq_sequential`.

Cost: as `gptq_sequential`, plus a forward pass for the full-precision outputs and, for every pass over the tokens, a
forward and a backward pass of each block; three tensors of hidden states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slmquant.core.affine import QuantizedTensor
from slmquant.methods.common.parts import Rounding
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.work import Work
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.linears import Linear
from slmquant.model.running.block_walk import CurrentBlock, Exact
from slmquant.model.structure import Relations
from slmquant.schemes.scheme import Scheme

_LEAST_SHARE = 1e-3
"""Lower bound of a channel's variance in the denominator, as a share of the mean variance."""


@dataclass(frozen=True)
class NormTweaking:
    """Sequential GPTQ, then tuned gains of norms that compensate part of its error.

    Attributes:
        rounding: Rounds the block before its norms are tuned.
        lr: Step size of Adam in the first block.
        growth: Fraction by which the step size has grown at the last block.
        passes: Number of passes over the calibration tokens.
    """

    rounding: SequentialGptq = field(default_factory=SequentialGptq)
    lr: float = 1e-5
    growth: float = 1.0
    passes: int = 1
    learns: bool = True
    wants_exact: Exact = "outputs"

    @property
    def embeddings(self) -> Rounding:
        """The rounding of embeddings of `rounding`."""
        return self.rounding.embeddings

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse what `rounding` refuses."""
        return self.rounding.refusal(scheme, relations)

    @torch.no_grad()
    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Return the block's codes; tune its norms and set its weights to the dequantized codes."""
        solved = self.rounding.solve_(block, work)
        for name, codes in solved.items():
            block.weight(name).copy_(codes.dequantize())
        gains = _gains(block.module)
        if gains:
            depth = work.relations.blocks.index(block.name) / len(work.relations.blocks)
            before = [gain.detach().clone() for gain in gains]
            if not self._tune_(gains, block, self.lr * (1 + self.growth * depth), work.dtype):
                for gain, old in zip(gains, before, strict=True):
                    gain.copy_(old)
                work.notes.append(f"{block.name}: the loss was not finite; its norms were left as they were")
        return solved

    def _tune_(self, gains: list[nn.Parameter], block: CurrentBlock, lr: float, dtype: torch.dtype) -> bool:
        """Tune `gains` with Adam; False if the loss was not finite."""
        if block.exact_outputs is None:
            raise ValueError(f"norm tweaking was given {block.name} without the outputs of the full-precision model")
        required = [gain.requires_grad for gain in gains]
        adam = torch.optim.Adam(gains, lr=lr)
        try:
            with torch.enable_grad(), multiplying_in(block.module, dtype):
                for gain in gains:
                    gain.requires_grad_(True)
                for part in block.batches() * self.passes:
                    loss = spread_difference(block.run(block.inputs[part]), block.exact_outputs[part])
                    if not torch.isfinite(loss):
                        return False
                    for gain, gradient in zip(gains, torch.autograd.grad(loss, gains), strict=True):
                        gain.grad = gradient
                    adam.step()
        finally:
            for gain, before in zip(gains, required, strict=True):
                gain.requires_grad_(before)
                gain.grad = None
        return True


def spread_difference(
    outputs: Float[Tensor, "batch seq hidden"], targets: Float[Tensor, "batch seq hidden"]
) -> Float[Tensor, ""]:
    """Difference of `outputs` from `targets` in the mean and variance of each channel, averaged over channels."""
    outputs, targets = outputs.flatten(0, -2), targets.flatten(0, -2)
    variance, mean = torch.var_mean(targets, dim=0, correction=0)
    output_variance, output_mean = torch.var_mean(outputs, dim=0, correction=0)
    # A channel that hardly varies would dominate the loss.
    size = variance.clamp(min=float(variance.mean()) * _LEAST_SHARE + torch.finfo(variance.dtype).tiny)
    return ((output_mean - mean).abs() / size.sqrt() + (output_variance - variance).abs() / size).mean()


def _gains(block: nn.Module) -> list[nn.Parameter]:
    """Gains and biases per channel of the norms inside a block."""

    def is_norm(module: nn.Module) -> bool:
        parameters = dict(module.named_parameters(recurse=False))
        return "weight" in parameters and parameters.keys() <= {"weight", "bias"} and parameters["weight"].ndim == 1

    norms = [m for m in block.modules() if not isinstance(m, Linear) and not any(m.children()) and is_norm(m)]
    return [parameter for norm in norms for parameter in norm.parameters()]


METHOD = Recipe(
    title="Norm tweaking",
    summary="Sequential GPTQ, then a few Adam steps on each block's norms to restore its outputs' mean and variance.",
    reference="Li et al., AAAI 2024, arXiv 2309.02784",
    blocks=NormTweaking(),
)
