"""Linears and norms as modules: their weights whatever the layout, their numbers of channels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Linear = nn.Linear | Conv1D
"""Types of linears: torch's, and GPT-2's with its transposed weight."""


def linear_at(model: nn.Module, name: str) -> Linear:
    """The linear of that name.

    Raises:
        TypeError: The module of that name is not a linear.
    """
    module = model.get_submodule(name)
    if not isinstance(module, Linear):
        raise TypeError(f"{name!r} is a {type(module).__name__}, expected a linear")
    return module


def weight_at(model: nn.Module, name: str) -> Tensor:
    """The weight of the linear of that name, plain or quantized, as `(out, in)`, for either layout; a view.

    Raises:
        TypeError: The module of that name is not a linear.
    """
    module = model.get_submodule(name)
    if isinstance(module, Conv1D):
        return module.weight.T
    if not hasattr(module, "in_features"):
        raise TypeError(f"{name!r} is a {type(module).__name__}, expected a linear")
    return module.get_parameter("weight")


def out_features(linear: nn.Module) -> int:
    """Number of output channels of a linear of either layout."""
    weight = linear.get_parameter("weight")
    return weight.shape[1 if isinstance(linear, Conv1D) else 0]


def in_features(linear: nn.Module) -> int:
    """Number of input channels of a linear of either layout."""
    weight = linear.get_parameter("weight")
    return weight.shape[0 if isinstance(linear, Conv1D) else 1]


def gain_offset(norm: nn.Module) -> float | None:
    """The `a` in a norm's `normalized · (a + weight) + bias`: 0, or 1 as in Gemma; None if neither fits."""
    bare = copy.deepcopy(norm).cpu().double().train(False)
    gain, bias = bare.get_parameter("weight"), getattr(bare, "bias", None)
    probe = torch.linspace(-1.0, 2.0, gain.numel(), dtype=torch.float64).expand(1, 1, -1)
    with torch.no_grad():
        if bias is not None:
            bias.zero_()
        for offset in (0.0, 1.0):
            gain.fill_(-offset)
            output = bare(probe)
            if isinstance(output, Tensor) and not output.any():
                return offset
    return None
