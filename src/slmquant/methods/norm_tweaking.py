"""Norm tweaking: after a block is rounded, the gains of its norms are tuned until its outputs are spread as before.

Li et al., "Norm Tweaking: High-Performance Low-Bit Quantization of Large Language Models", AAAI 2024,
arXiv 2309.02784. With `μ` and `σ²` the mean and the variance of a channel over all tokens of a batch, of the
full-precision model (f) and of the quantized one (q), gains and biases of the block's norms follow the gradient of

    L = 1/C · Σ_c |μ_f − μ_q| + |σ²_f − σ²_q|

by Adam, one step for each batch, with the step size `lr · (1 + growth · l / L)` in block `l` of `L`. Weights are
rounded by GPTQ first, block after block.

Deviations:
    * Calibration text is a corpus, the same as for every other method; the authors let the model generate it.
    * Each channel's terms are divided by its standard deviation and its variance in the full-precision model. On
      small models a few channels of the residual stream are thousands of times larger than the others, and the sum
      would be theirs alone.
    * A batch is about 2048 tokens: means and variances of a single short window are too noisy to follow. At the paper's
      step size that is so few steps that no gain moves by more than some ten-thousandths; expect the figures of
      `gptq_sequential`, or next to them.
    * All norms inside a block are tuned, those of queries and keys included, and only gains and biases per channel;
      a model whose norms have none is rounded as `gptq_sequential` does.

Cost: `gptq_sequential`, another forward pass for the full-precision outputs, and for every pass over the tokens a
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
"""Of the mean variance: what a channel's is taken for at least where differences are measured by it."""


@dataclass(frozen=True)
class NormTweaking:
    """Sequential GPTQ, and gains of norms that make up for some of its error.

    Attributes:
        rounding: What rounds the block before.
        lr: Step size of Adam in the first block.
        growth: By which fraction the step size has grown at the last block.
        passes: Passes over the calibration tokens.
    """

    rounding: SequentialGptq = field(default_factory=SequentialGptq)
    lr: float = 1e-5
    growth: float = 1.0
    passes: int = 1
    learns: bool = True
    wants_exact: Exact = "outputs"

    @property
    def embeddings(self) -> Rounding:
        """As the rounding before."""
        return self.rounding.embeddings

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """As the rounding before."""
        return self.rounding.refusal(scheme, relations)

    @torch.no_grad()
    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Codes of the block's linears; its norms are changed, and its plain linears hold what the codes stand for."""
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
        """Adam on `gains`; False where the loss was not finite."""
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
    found: Float[Tensor, "batch seq hidden"], wanted: Float[Tensor, "batch seq hidden"]
) -> Float[Tensor, ""]:
    """How far the channels of `found` are from those of `wanted` in mean and in variance, averaged over channels."""
    found, wanted = found.flatten(0, -2), wanted.flatten(0, -2)
    variance, mean = torch.var_mean(wanted, dim=0, correction=0)
    variance_found, mean_found = torch.var_mean(found, dim=0, correction=0)
    # A channel that hardly varies would count for everything.
    size = variance.clamp(min=float(variance.mean()) * _LEAST_SHARE + torch.finfo(variance.dtype).tiny)
    return ((mean_found - mean).abs() / size.sqrt() + (variance_found - variance).abs() / size).mean()


def _gains(block: nn.Module) -> list[nn.Parameter]:
    """Gains and biases per channel of the norms inside a block."""

    def is_norm(module: nn.Module) -> bool:
        own = dict(module.named_parameters(recurse=False))
        return "weight" in own and own.keys() <= {"weight", "bias"} and own["weight"].ndim == 1

    norms = [m for m in block.modules() if not isinstance(m, Linear) and not any(m.children()) and is_norm(m)]
    return [parameter for norm in norms for parameter in norm.parameters()]


METHOD = Recipe(
    title="Norm tweaking",
    summary="Sequential GPTQ, then a few steps of Adam on each block's norms to restore the spread of its outputs.",
    reference="Li et al., AAAI 2024, arXiv 2309.02784",
    blocks=NormTweaking(),
)
