"""GPTAQ: GPTQ that also compensates the errors of the blocks before.

Li, Yin, Lee, Xiao, Panda, "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", ICML 2025,
arXiv 2504.02692. Minimises `‖Ŵ X − W X̃‖²` column by column, where `X` are the inputs from the quantized blocks before
and `X̃` those of the full-precision model. `core.gptaq` derives the update of the paper's algorithm 1,

    ΔW_F = −(w − v) / U_qq · U_qF + w P_qF,   P = striu(ΔX Xᵀ Uᵀ) U,   ΔX = X̃ − X,   (X Xᵀ)⁻¹ = UᵀU

Deviations:
    * `strength`, the factor of `P`, is 0.25 as in the authors' code; the paper has no such factor (`strength` 1).
    * Those of `gptq_sequential` about rounded inputs, column order, groups and the head.

As in the authors' code, the linears of a block that share an input are rounded together, and the next ones read the
outputs of the rounded ones: q, k and v, then o, then gate and up, then down.

Cost: for each group of a block, two passes over the calibration tokens up to that group: one through the
full-precision block and one through the block as rounded so far; then two passes of the whole block. Two tensors of
hidden states for all tokens, and two `in × in` matrices instead of one, for one input at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slmquant.core import hessian
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.gptaq import gptaq
from slmquant.core.gptq import Scales
from slmquant.core.hessian import Weighting
from slmquant.errors import NumericalError
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.stacked import round_stacked
from slmquant.methods.common.work import Work
from slmquant.methods.gptq import Gptq
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.running.block_walk import CurrentBlock, Exact
from slmquant.model.structure import Relations
from slmquant.schemes.scheme import Scheme


@dataclass(frozen=True)
class Gptaq:
    """Rounds column by column, compensating both its own errors and those of the blocks before.

    Attributes:
        damp: Fraction of the Hessian's mean diagonal that is added to its diagonal.
        act_order: Whether columns are rounded in order of decreasing Hessian diagonal.
        strength: Share of the earlier blocks' errors to compensate, in [0, 1]; 0 is sequential GPTQ.
        weighting: Weight of a token; `uniform` in the paper.
        sink_share: Share reserved for the first token of each window; see `gptq_sink`.
        scales: Whether scales cover ranges or are searched; see `core.gptq.Scales`.
        embeddings: The rounding of embedding and head.
    """

    damp: float = 0.01
    act_order: bool = True
    strength: float = 0.25
    weighting: Weighting = "uniform"
    sink_share: float = 0.0
    scales: Scales = "range"
    embeddings: Gptq = field(default_factory=Gptq)
    learns: bool = False
    wants_exact: Exact = "inputs"

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse grids without the requested scales, and weighting by importance; any model will do."""
        del relations
        if self.weighting == "importance":
            return "importance needs gradients from the end of the model, not block after block; use weighting='energy'"
        searched = Gptq(scales=self.scales)
        reasons = (searched.refusal(spec) for spec in scheme.weight_specs)
        return next((reason for reason in reasons if reason is not None), None)

    @torch.no_grad()
    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Return the codes of the block's linears, and set their weights to the dequantized codes."""
        plain = {name: block.weight(name).clone() for group in block.groups for name in group.linears}
        solved: dict[str, QuantizedTensor] = {}
        for group in block.groups:
            observer = _Observer(group.linears[0], block, self.weighting, self.sink_share)
            moments = _observed(block, observer, plain, solved, work.dtype)
            weights = {name: plain[name].float() for name in group.linears}
            solved |= round_stacked(weights, work.specs, partial(self._round, inputs=moments))
        _move_on_(block, plain, work.dtype)
        _put_(block, {name: codes.dequantize() for name, codes in solved.items()})
        return solved

    def _round(self, rows: Float[Tensor, "rows in"], grid: Grid, inputs: _Moments) -> QuantizedTensor:
        return gptaq(
            rows,
            inputs.H,
            inputs.cross,
            grid,
            damp=self.damp,
            act_order=self.act_order,
            strength=self.strength,
            scales=self.scales,
        )


class _Moments(NamedTuple):
    """`E[x xᵀ]` and `E[(x̃ − x) xᵀ]` of one input."""

    H: Float[Tensor, "in in"]
    cross: Float[Tensor, "in in"]


class _Seen(Exception):  # noqa: N818  # no error: it ends a pass through a block once the input is observed
    """The input was observed."""


class _Observer:
    """Accumulates the moments of one input, batch by batch; for each batch it reads `x̃` first, then `x`.

    Args:
        name: Name of the linear that reads the input.
        block: The block that contains the linear.
        weighting: Weight of a token, computed from its `x`.
        sink_share: Share of the first token of each window.
    """

    def __init__(self, name: str, block: CurrentBlock, weighting: Weighting, sink_share: float) -> None:
        size, device = block.weight(name).shape[1], block.inputs.device
        self.name, self._weighting, self._share = name, weighting, sink_share
        self._hessian = torch.zeros(size, size, device=device)
        self._cross = torch.zeros(size, size, device=device)
        self._first: list[tuple[Tensor, Tensor]] = []
        self._exact: Tensor | None = None
        self._tokens = 0
        self.batch = torch.Size()
        """Shape (windows, tokens) of the current batch."""

    def __call__(self, linear: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = hessian.multiplied(args[0], linear.get_parameter("weight").dtype)
        if self._exact is None:
            self._exact = x
            raise _Seen
        if self._exact.shape != x.shape:
            raise NumericalError(f"{self.name!r} does not see the same tokens in both models; does it route them?")
        apart = self._exact - x
        if self._share and len(x) == self.batch.numel():
            self._first.append((x[:: self.batch[1]].float(), apart[:: self.batch[1]].float()))
        if self._weighting == "energy":
            weights = hessian.energy_weights(x)
            x, apart = hessian.weighted(x, weights), hessian.weighted(apart, weights)
        hessian.add_outer_(self._hessian, x)
        hessian.add_product_(self._cross, apart, x)
        self._tokens += len(x)
        self._exact = None
        raise _Seen

    def finished(self) -> _Moments:
        """Return the mean moments; call once, after all batches."""
        if self._tokens == 0:
            raise NumericalError(f"no calibration token reached {self.name!r}; does the model route around it?")
        H, cross = hessian.finish_(self._hessian, self._tokens), self._cross.div_(self._tokens)
        if not self._first:
            return _Moments(H, cross)
        first, apart = (torch.cat(parts) for parts in zip(*self._first, strict=True))
        return _Moments(
            hessian.with_first_tokens(H, first, self._share, self._weighting),
            hessian.cross_with_first_tokens(cross, apart, H, first, self._share, self._weighting),
        )


def _observed(
    block: CurrentBlock,
    observer: _Observer,
    plain: Mapping[str, Float[Tensor, "out in"]],
    solved: Mapping[str, QuantizedTensor],
    dtype: torch.dtype,
) -> _Moments:
    """Moments of a linear's inputs in the full-precision block and in the block as rounded so far."""
    exact = block.exact_inputs
    if exact is None:
        raise ValueError(f"GPTAQ was given {block.name} without the inputs of the full-precision model")
    rounded = {solved_name: codes.dequantize() for solved_name, codes in solved.items()}
    with ExitStack() as hooks:
        hooks.callback(block.linear(observer.name).register_forward_pre_hook(observer).remove)
        for part in block.batches():
            observer.batch = block.inputs[part].shape[:2]
            for weights, hidden in ((plain, exact), (rounded, block.inputs)):
                _put_(block, weights)
                with suppress(_Seen), multiplying_in(block.module, dtype):
                    block.run(hidden[part])
    return observer.finished()


def _move_on_(block: CurrentBlock, plain: Mapping[str, Float[Tensor, "out in"]], dtype: torch.dtype) -> None:
    """Replace the block's exact inputs by the full-precision block's outputs."""
    exact = block.exact_inputs
    if exact is None:
        raise ValueError(f"GPTAQ was given {block.name} without the inputs of the full-precision model")
    _put_(block, plain)
    with multiplying_in(block.module, dtype):
        for part in block.batches():
            block.move_on_(part, block.run(exact[part]))


def _put_(block: CurrentBlock, weights: Mapping[str, Float[Tensor, "out in"]]) -> None:
    for name, weight in weights.items():
        block.weight(name).copy_(weight)


METHOD = Recipe(
    title="GPTAQ",
    summary="GPTQ, block by block, that aims at the full-precision model's outputs and compensates earlier errors.",
    reference="Li et al., ICML 2025, arXiv 2504.02692",
    blocks=Gptaq(),
)
