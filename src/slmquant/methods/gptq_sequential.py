"""Sequential GPTQ: each block is rounded for the inputs that the blocks already rounded give it.

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, arXiv 2210.17323, sections 3 and 4: blocks in order, each fed with the outputs of the
quantized ones before it. `‖(W − Ŵ) X‖²` is minimised as in `gptq`, over these inputs.

Deviations:
    * All Hessians of a block are captured at once, from the block before any of its linears is rounded. With
      `true_sequential` (a later addition to the authors' code) they are captured group after group, each behind the
      rounded groups before it.
    * Hessians come from inputs before they are rounded, where a scheme rounds the inputs of linears; what the blocks
      before do with rounded inputs is in them.
    * Column order and groups as in `gptq`.
    * A head is rounded under the Hessian of the full-precision model.

Cost: two forward passes over the calibration tokens (with `true_sequential` one and another for each group of a
block), one tensor of hidden states for all tokens, one block's Hessians. Nothing is shared between cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from slmquant.calib.capture import capture_block
from slmquant.core.affine import QuantizedTensor
from slmquant.methods.common.parts import Rounding
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.stacked import round_stacked
from slmquant.methods.common.work import Work
from slmquant.methods.gptq import Gptq
from slmquant.model.running.block_walk import CurrentBlock, Exact
from slmquant.model.structure import Relations
from slmquant.schemes.scheme import Scheme


@dataclass(frozen=True)
class SequentialGptq:
    """GPTQ, block after block.

    Attributes:
        rounding: What rounds each group of linears; its `weighting`, `sink_share` and `scales` work here as well.
        true_sequential: Whether the groups of a block are captured and rounded one after the other.
    """

    rounding: Gptq = field(default_factory=Gptq)
    true_sequential: bool = False
    learns: bool = False
    wants_exact: Exact = "nothing"

    @property
    def embeddings(self) -> Rounding:
        """The same rounding."""
        return self.rounding

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Any model will do, and any grid that the rounding takes."""
        del relations
        if self.rounding.weighting == "importance":
            return "what a token matters is seen from the end of the model, not block after block; weigh by energy"
        reasons = (self.rounding.refusal(spec) for spec in scheme.weight_specs)
        return next((reason for reason in reasons if reason is not None), None)

    @torch.no_grad()
    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Codes of the block's linears; with `true_sequential` its plain linears then hold what the codes stand for."""
        solved: dict[str, QuantizedTensor] = {}
        for groups in [(group,) for group in block.groups] if self.true_sequential else [block.groups]:
            statistics = capture_block(block, groups, self.rounding.needs, work.dtype)
            for group in groups:
                inputs = statistics[group.linears[0]]
                weights = {name: block.weight(name).float() for name in group.linears}
                solved |= round_stacked(weights, work.specs, partial(self.rounding.round, statistics=inputs))
            if self.true_sequential:
                for name in groups[0].linears:
                    block.weight(name).copy_(solved[name].dequantize())
        return solved


METHOD = Recipe(
    title="GPTQ-sequential",
    summary="GPTQ block after block, under the Hessians of what the rounded blocks before give.",
    reference="Frantar et al., ICLR 2023, arXiv 2210.17323",
    blocks=SequentialGptq(),
)
