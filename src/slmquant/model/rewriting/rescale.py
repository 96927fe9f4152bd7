"""Moves a scale (or a shift) per channel from activations into weights, in place, without changing the function.

The input of the linears is divided by the factors, and the input columns of their weights are multiplied by them. The
division is merged into the module that computes the activation: into the gain and bias of a norm, or the rows and bias
of the previous linear. SmoothQuant and AWQ choose the factors; this module only applies them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slmquant.errors import RefusedError
from slmquant.model.linears import gain_offset, in_features, out_features
from slmquant.model.rewriting.online_rotations import turns_input
from slmquant.model.structure import ChannelLink, InputGroup, Relations


def scale_group_(model: PreTrainedModel, relations: Relations, group: InputGroup, factors: Tensor) -> None:
    """Divide the output of a norm by `factors`, and multiply the input columns of its linears by them.

    Args:
        model: The model that `relations` describes; changed in place, and only if all arguments are valid.
        relations: Its relations.
        group: One of its groups, with a norm.
        factors: Positive factors, shape `(in,)`.

    Raises:
        ValueError: The group is not in `relations` or has no norm, or the factors do not fit.
    """
    if group not in relations.groups:
        raise ValueError(f"the group of {group.linears[0]} is not among the relations given; discover them again")
    if group.norm is None:
        raise ValueError(
            f"the input of {group.linears[0]} has no norm that feeds only this group and could absorb a scale; "
            "expected a group whose norm is not None"
        )
    linears = [model.get_submodule(name) for name in group.linears]
    for name, linear in zip(group.linears, linears, strict=True):
        _check(factors, in_features(linear), f"the input channels of {name}")
    norm = model.get_submodule(group.norm)
    offset = gain_offset(norm)
    if offset is None:
        raise ValueError(f"the weight of {group.norm} is not a gain per channel, so it cannot absorb a scale")

    gain = norm.get_parameter("weight")
    _assign_(gain, (gain.double() + offset) / _like(factors, gain) - offset)
    _divide_bias_(norm, factors)
    for linear in linears:
        _multiply_columns_(linear, factors)


def shift_group_(model: PreTrainedModel, relations: Relations, group: InputGroup, shift: Tensor) -> None:
    """Subtract `shift` from the output of a norm, and add `W · shift` to the biases of its linears.

    Args:
        model: The model that `relations` describes; changed in place, and only if all arguments are valid.
        relations: Its relations.
        group: One of its groups, with a norm; norm and linears have biases.
        shift: Shape `(in,)`.

    Raises:
        ValueError: The group is not in `relations`, the norm or a linear has no bias, or the shift does not fit.
    """
    if group not in relations.groups or group.norm is None:
        raise ValueError(f"the group of {group.linears[0]} is not among the relations given, or has no norm")
    norm, linears = model.get_submodule(group.norm), [model.get_submodule(name) for name in group.linears]
    for name, module in zip((group.norm, *group.linears), (norm, *linears), strict=True):
        if getattr(module, "bias", None) is None:
            raise ValueError(f"{name} has no bias, so it cannot take a shift; expected norm and linears with biases")
    if shift.shape != (in_features(linears[0]),):
        raise ValueError(
            f"a shift of shape {tuple(shift.shape)} does not fit the input channels of {group.linears[0]}; "
            f"expected ({in_features(linears[0])},)"
        )
    norm_bias = norm.get_parameter("bias")
    _assign_(norm_bias, norm_bias.double() - _like(shift, norm_bias))
    for linear in linears:
        weight, bias = linear.get_parameter("weight").double(), linear.get_parameter("bias")
        rows = weight.T if isinstance(linear, Conv1D) else weight
        _assign_(bias, bias.double() + rows @ _like(shift, bias))


def scale_link_(model: PreTrainedModel, link: ChannelLink, factors: Tensor) -> None:
    """Divide the source's rows that the target follows by `factors`, and multiply the target's columns by them.

    Args:
        model: The model; changed in place, and only if all arguments are valid.
        link: One of its links.
        factors: Positive factors for the target's input channels, shape `(in,)`. Channels that follow the same row must
            have the same factor: see `shared_factors`.

    Raises:
        ValueError: The factors do not fit, or differ between channels that follow the same row.
        RefusedError: The target's input is rotated at run time, so its channels do not follow the source any more.
    """
    source, target = model.get_submodule(link.source), model.get_submodule(link.target)
    if turns_input(target):
        raise RefusedError(
            f"the input of {link.target} is rotated at run time, so no scale can be moved into it; name the rotation "
            "last, as in awq+quarot"
        )
    _check(factors, in_features(target), f"the input channels of {link.target}")
    if not torch.equal(shared_factors(link, factors), factors):
        raise ValueError(
            f"factors differ between input channels of {link.target} that follow one row of {link.source}; "
            "expected one factor per row, as returned by shared_factors(link, factors)"
        )
    row_factors = torch.ones(out_features(source), dtype=torch.float64)
    row_factors[list(link.source_rows)] = factors.detach().double().cpu()
    weight = source.get_parameter("weight")
    by_row = _like(row_factors, weight)
    _assign_(weight, weight.double() / (by_row if isinstance(source, Conv1D) else by_row[:, None]))
    _divide_bias_(source, row_factors)
    _multiply_columns_(target, factors)


def shared_factors(link: ChannelLink, factors: Tensor) -> Tensor:
    """Replace the factors of input channels that follow the same row by the largest of them.

    Args:
        link: A link; with grouped-query attention several channels follow one row.
        factors: One factor per input channel of the target, shape `(in,)`.

    Returns:
        Factors that `scale_link_` accepts, shape `(in,)`.
    """
    _check(factors, len(link.source_rows), f"the input channels of {link.target}")
    rows = torch.tensor(link.source_rows, device=factors.device)
    largest = factors.new_zeros(int(rows.max()) + 1).scatter_reduce(0, rows, factors, "amax", include_self=False)
    return largest[rows]


def _check(factors: Tensor, channels: int, whose: str) -> None:
    if factors.shape != (channels,):
        raise ValueError(f"factors of shape {tuple(factors.shape)} do not fit {whose}; expected ({channels},)")
    if not bool((torch.isfinite(factors) & (factors > 0)).all()):
        raise ValueError(f"factors for {whose} must be positive and finite; got {factors.min()} to {factors.max()}")


def _multiply_columns_(linear: nn.Module, factors: Tensor) -> None:
    weight = linear.get_parameter("weight")
    by_column = _like(factors, weight)
    _assign_(weight, weight.double() * (by_column[:, None] if isinstance(linear, Conv1D) else by_column))


def _divide_bias_(module: nn.Module, factors: Tensor) -> None:
    bias = getattr(module, "bias", None)
    if bias is not None:
        _assign_(bias, bias.double() / _like(factors, bias))


def _like(factors: Tensor, weight: Tensor) -> Tensor:
    return factors.detach().to(weight.device, torch.float64)


def _assign_(parameter: Tensor, value: Tensor) -> None:
    """Set a parameter, rounding only once, from float64 to its dtype."""
    with torch.no_grad():
        parameter.copy_(value)
