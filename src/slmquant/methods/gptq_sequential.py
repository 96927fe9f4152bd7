"""Sequential GPTQ: rounds each block for the inputs that it receives from the rounded blocks before it.

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, arXiv 2210.17323, sections 3 and 4: blocks are rounded in order, and each reads the outputs of
the quantized blocks before it. `‖(W − Ŵ) X‖²` is minimised as in `gptq`, over these inputs.

Deviations:
    * All Hessians of a block are captured at once, before any of its linears is rounded. With `true_sequential` (a
      later addition to the authors' code) they are captured group by group, each after the earlier groups are rounded.
    * If a scheme rounds the inputs of linears, Hessians are those of the inputs before rounding. They do include the
      effect of rounded inputs in the blocks before.
    * Column order and groups as in `gptq`.
    * A head is rounded with the Hessian of the full-precision model.

Cost: two forward passes over the calibration tokens (with `true_sequential` one, plus one for each group of a block),
one tensor of hidden states for all tokens, one block's Hessians. Nothing is shared between cells.
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
    """GPTQ, block by block.

    Attributes:
        rounding: Rounds each group of linears; its `weighting`, `sink_share` and `scales` apply here as well.
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
        """Refuse what the rounding refuses, and weighting by importance; any model will do."""
        del relations
        if self.rounding.weighting == "importance":
            return "importance needs gradients from the end of the model, not block after block; use weighting='energy'"
        reasons = (self.rounding.refusal(spec) for spec in scheme.weight_specs)
        return next((reason for reason in reasons if reason is not None), None)

    @torch.no_grad()
    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Return the block's codes; with `true_sequential` also set its weights to the dequantized codes."""
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
    summary="GPTQ, block by block, with the Hessians of the rounded blocks' outputs.",
    reference="Frantar et al., ICLR 2023, arXiv 2210.17323",
    blocks=SequentialGptq(),
)
