"""Move a checkpoint off the grid it was quantized on, without changing its function.

Weights that come from 4-bit codes lie on a grid, and rounding them to 4 bits again costs nothing: such a checkpoint
flatters every 4-bit result. So every channel between a norm and its linears, and between a linear and the next one, is
rescaled by a factor near 1, which moves the weights between the grid's points. The residual stream, and with it
embeddings and head, is unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.errors import ModelError
from slmquant.model.discovery.float64 import logits_in_float64
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import in_features, out_features
from slmquant.model.rewriting.rescale import scale_group_, scale_link_

_LARGEST_EXPONENT = 0.25
"""Factors are 2^u, with u uniform between minus and plus this."""

_ROUNDINGS = 128.0
"""Change of the logits attributed to rounding the weights, in units of their dtype's epsilon × max |logit|."""


@dataclass(frozen=True)
class OffGridReport:
    """What was rescaled, and the effect on the logits.

    Attributes:
        max_abs_logit_change: Largest change of a logit over a fixed token sequence, computed in float64; it comes from
            rounding the rescaled weights to their dtype.
        channels: Number of rescaled channels.
        groups: Number of norms whose linears were rescaled.
        links: Number of linear → linear links that were rescaled.
    """

    max_abs_logit_change: float
    channels: int
    groups: int
    links: int


def move_off_grid(model: PreTrainedModel, seed: int = 0) -> OffGridReport:
    """Rescale channels in place by seeded random factors near 1, and verify that the logits do not change.

    Args:
        model: A decoder-only model.
        seed: Seed of the factors; the same seed gives the same weights.

    Raises:
        ModelError: The logits changed by more than rounding explains, or nothing could be rescaled. The model must not
            be used then.
    """
    before = logits_in_float64(model)
    relations = discover(model)
    generator = torch.Generator().manual_seed(seed)
    groups = [group for group in relations.groups if group.norm is not None]
    if not groups and not relations.links:
        raise ModelError(f"nothing in {type(model).__name__} can be rescaled; its weights stay on their grid")

    channels = 0
    for group in groups:
        count = in_features(model.get_submodule(group.linears[0]))
        scale_group_(model, relations, group, _factors(count, generator))
        channels += count
    for link in relations.links:
        per_row = _factors(out_features(model.get_submodule(link.source)), generator)
        scale_link_(model, link, per_row[list(link.source_rows)])
        channels += len(set(link.source_rows))

    change = float((logits_in_float64(model) - before).abs().max())
    allowed = _ROUNDINGS * torch.finfo(model.dtype).eps * float(before.abs().max())
    if not change <= allowed:
        raise ModelError(
            f"rescaling {type(model).__name__} changed its logits by up to {change:.2g}; expected at most "
            f"{allowed:.2g} from rounding: do not use this model, and report its architecture"
        )
    return OffGridReport(change, channels, len(groups), len(relations.links))


def _factors(count: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return ((2 * uniform - 1) * _LARGEST_EXPONENT).exp2()
