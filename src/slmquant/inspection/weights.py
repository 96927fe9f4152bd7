"""Figures of every weight matrix: how far its numbers reach, which columns stick out, and whether it lies on a grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.core.moments import Reach, reach, times_median
from slmquant.inspection.lattice import lattice_of
from slmquant.methods.common.mixed import weight_names
from slmquant.model.running.trial import stored_weight
from slmquant.model.structure import Relations
from slmquant.progress import Progress, track
from slmquant.store.anatomy import Role
from slmquant.store.inspected import DtypeName, WeightFacts

__all__ = ["OUTLIER", "inspect_weights"]

OUTLIER = 6.0
"""Times the median beyond which a column, a channel or a token is an outlier; LLM.int8() calls magnitudes from 6 so, in
models whose ordinary activations are about 1."""

_DTYPES: Mapping[DtypeName, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_CHUNK_ELEMENTS = 1 << 22


@torch.no_grad()
def inspect_weights(
    model: PreTrainedModel, relations: Relations, roles: Mapping[str, tuple[Role, int]], progress: Progress
) -> tuple[WeightFacts, ...]:
    """Figures of the embedding, of every linear of the blocks, and of a head of its own."""
    return tuple(
        _facts(name, stored_weight(model, name), *_place(name, relations, roles))
        for name in track(weight_names(relations), "look at weights", progress)
    )


def _place(name: str, relations: Relations, roles: Mapping[str, tuple[Role, int]]) -> tuple[Role, int | None]:
    if name in roles:
        return roles[name]
    return ("embedding" if name == relations.embedding else "head"), None


def _facts(name: str, W: Float[Tensor, "out in"], role: Role, layer: int | None) -> WeightFacts:
    total = sum((reach(part) for part in _chunks(W)), start=Reach())
    columns = torch.stack([part.float().square().sum(dim=0, dtype=torch.float64) for part in _chunks(W)]).sum(dim=0)
    worst = times_median((columns / len(W)).sqrt().float())
    low, high = W.aminmax()
    dtype = smallest_dtype(W)
    return WeightFacts(
        name=name,
        layer=layer,
        role=role,
        rows=W.shape[0],
        columns=W.shape[1],
        low=float(low),
        high=float(high),
        rms=total.rms,
        kurtosis=total.kurtosis,
        outlier_columns=int((worst > OUTLIER).sum()),
        worst_column=float(worst.max()),
        dtype=dtype,
        lattice=lattice_of(W.float(), torch.finfo(getattr(torch, dtype)).eps),
    )


def smallest_dtype(W: Float[Tensor, "out in"]) -> DtypeName:
    """The smallest dtype that holds all numbers of a weight exactly; of the two of 16 bits, bfloat16 if both do."""
    for name, dtype in _DTYPES.items():
        if all(torch.equal(part.to(dtype).float(), part.float()) for part in _chunks(W)):
            return name
    return "float32"


def _chunks(W: Float[Tensor, "out in"]) -> Iterator[Float[Tensor, "some in"]]:
    """The rows of a weight, a few million numbers at a time."""
    yield from W.split(max(1, _CHUNK_ELEMENTS // W.shape[1]))
