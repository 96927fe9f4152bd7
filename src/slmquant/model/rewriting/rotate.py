"""Rotates the channels of a model by orthogonal matrices, in place, without changing its function.

The residual stream between the blocks is rotated by one rotation, R1: linears that write it are multiplied by R1,
linears that read it by its transpose, and the norms in between commute with it once their gains are folded into the
linears that read them. RMSNorm commutes with every rotation, LayerNorm with rotations that keep the mean
(`core.rotation`), so LayerNorm is not replaced and still subtracts the mean.

R1 is applied where the stream enters the first block and undone where it leaves the last. QuaRot and SpinQuant merge
it into embedding and head instead, and must then untie them: in a small model that would store 20 to 60 % of all
weights twice, and change the values that are rounded. Here embeddings, positions, final norm, soft caps and head do not
change, at the cost of two more products with R1 per token.

Heads are rotated between values and output projection (R2), the inputs of other linears at run time (R4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from slmquant.core.hadamard import hadamard
from slmquant.core.rotation import Rotation
from slmquant.model.linears import gain_offset, linear_at, weight_at
from slmquant.model.rewriting.online_rotations import OnlineRotation
from slmquant.model.structure import BlockStream, Heads, Relations, ResidualStream


@torch.no_grad()
def fold_norms_(model: nn.Module, block: BlockStream) -> None:
    """Move gains and biases of a block's stream norms into the linears that read them.

    Gains become one and biases zero. A linear without a bias gets one if the norm has a bias.
    """
    for stream_norm in block.norms:
        norm = model.get_submodule(stream_norm.name)
        gain, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
        if bias is not None:
            for name in stream_norm.readers:
                _add_bias_(linear_at(model, name), weight_at(model, name).double() @ bias.double())
            _assign_(bias, torch.zeros_like(bias))
        if gain is not None:
            offset = gain_offset(norm)
            if offset is None:
                raise ValueError(f"the weight of {stream_norm.name} is not a gain per channel; run discovery again")
            for name in stream_norm.readers:
                _assign_(weight_at(model, name), weight_at(model, name).double() * (gain.double() + offset))
            _assign_(gain, torch.full_like(gain, 1.0 - offset))


def rotate_stream_(model: nn.Module, block: BlockStream, rotation: Rotation) -> None:
    """Rotate the readers and writers of one block's stream, after `fold_norms_`; the block's input is not rotated."""
    for name in (reader for norm in block.norms for reader in norm.readers):
        _turn_columns_(model, name, rotation.apply)
    for name in block.writers:
        weight, bias = weight_at(model, name), linear_at(model, name).bias
        _assign_(weight, rotation.apply(weight.double().T).T)
        if bias is not None:
            _assign_(bias, rotation.apply(bias.double()))


def stream_boundaries(stream: ResidualStream, rotation: Rotation) -> list[OnlineRotation]:
    """The rotation at the input of the first block, and its inverse at the output of the last."""
    return [
        OnlineRotation(stream.blocks[0].block, "input", rotation),
        OnlineRotation(stream.blocks[-1].block, "output", rotation, undo=True),
    ]


def rotate_heads_(model: nn.Module, heads: Heads, rotation: Rotation) -> None:
    """Rotate every head by the same rotation, of the order of a head: R2."""
    weight, bias = weight_at(model, heads.source), linear_at(model, heads.source).bias
    starts = torch.tensor(sorted(set(heads.starts)), device=weight.device)
    rows = (starts[:, None] + torch.arange(heads.size, device=weight.device)).flatten()

    def turned(values: Tensor) -> Tensor:
        return rotation.apply(values.double().unflatten(-1, (-1, heads.size))).flatten(-2)

    _assign_(weight, weight.double().index_copy(0, rows, turned(weight[rows].T).T))
    if bias is not None:
        _assign_(bias, bias.double().index_copy(0, rows, turned(bias[rows])))
    _turn_columns_(model, heads.target, lambda W: rotation.apply(W.unflatten(1, (-1, heads.size))).flatten(1))


def rotate_input_(model: nn.Module, name: str, rotation: Rotation) -> OnlineRotation:
    """Merge into a linear the inverse of a rotation of its input at run time: R4.

    Returns:
        The rotation; until it is attached, the function of the model is changed.
    """
    _turn_columns_(model, name, rotation.apply)
    return OnlineRotation(name, "input", rotation)


def rotate_model_(
    model: nn.Module, relations: Relations, stream: ResidualStream, residual: Rotation, heads: Mapping[str, Rotation]
) -> list[OnlineRotation]:
    """Rotate the stream, the heads, and by a Hadamard matrix the inputs of linears that read neither.

    Args:
        model: The model; its function is preserved once the result is attached to it.
        relations: Its relations.
        stream: Its residual stream.
        residual: R1; it must keep the mean if the stream's norms subtract the mean.
        heads: R2 by the name of the linear that reads the heads; heads not named are treated like other inputs.

    Returns:
        The rotations to attach at run time: R1 around the blocks, R4 before the other linears.
    """
    turned = set(heads)
    for block in stream.blocks:
        fold_norms_(model, block)
        rotate_stream_(model, block, residual)
        turned |= {reader for norm in block.norms for reader in norm.readers}
        for found in block.heads:
            if found.target in heads:
                rotate_heads_(model, found, heads[found.target])
    online = stream_boundaries(stream, residual)
    for name in relations.linears:
        transform = hadamard(weight_at(model, name).shape[1])
        if name not in turned and transform.block > 1:
            online.append(rotate_input_(model, name, transform))
    return online


def _turn_columns_(model: nn.Module, name: str, turn: Callable[[Tensor], Tensor]) -> None:
    weight = weight_at(model, name)
    _assign_(weight, turn(weight.double()))


def _add_bias_(linear: nn.Linear | Conv1D, addend: Tensor) -> None:
    bias: Tensor | None = linear.bias
    if bias is None:
        linear.bias = nn.Parameter(addend.to(linear.weight.dtype), requires_grad=linear.weight.requires_grad)
    else:
        _assign_(bias, bias.double() + addend)


def _assign_(parameter: Tensor, value: Tensor) -> None:
    """Set a parameter, rounding only once, from float64 to its dtype."""
    with torch.no_grad():
        parameter.copy_(value)
