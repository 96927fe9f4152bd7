"""Checks in float64 that a rewrite leaves a model's function unchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.model.discovery.float64 import logits_in_float64
from slmquant.model.linears import in_features, out_features
from slmquant.model.rewriting.rescale import scale_group_, scale_link_
from slmquant.model.structure import Relations


def logit_change(model: PreTrainedModel, rewrite_: Callable[[PreTrainedModel], None]) -> float:
    """Largest change of a logit, relative to the largest logit, that a rewrite causes.

    Args:
        model: A model; it is copied, in float64.
        rewrite_: Rewrites the given model in place.
    """
    changed = copy.deepcopy(model).double()
    before = logits_in_float64(changed)
    rewrite_(changed)
    return float((logits_in_float64(changed) - before).abs().max() / before.abs().max())


def scale_everything_(model: PreTrainedModel, relations: Relations, seed: int = 0) -> None:
    """Scale every norm and link of the relations by random factors between ¼ and 4."""
    generator = torch.Generator().manual_seed(seed)

    def factors(count: int) -> Tensor:
        return (4 * torch.rand(count, generator=generator, dtype=torch.float64) - 2).exp2()

    for group in relations.groups:
        if group.norm is not None:
            scale_group_(model, relations, group, factors(in_features(model.get_submodule(group.linears[0]))))
    for link in relations.links:
        per_row = factors(out_features(model.get_submodule(link.source)))
        scale_link_(model, link, per_row[list(link.source_rows)])
