"""Consecutive inputs of a weight that share a scale; the last group may be shorter."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


class Bounds(NamedTuple):
    """Smallest and largest value of each group."""

    low: Float[Tensor, "out groups"]
    high: Float[Tensor, "out groups"]


def count(size: int, group_size: int) -> int:
    """Number of groups that `size` inputs make: `ceil(size / group_size)`."""
    return -(-size // group_size)


def bounds(W: Float[Tensor, "out in"], group_size: int) -> Bounds:
    """Range of every group; the last group may be shorter."""
    missing = -W.shape[1] % group_size
    if missing:  # repeating the last column changes neither minimum nor maximum
        W = torch.cat([W, W[:, -1:].expand(-1, missing)], dim=1)
    grouped = W.reshape(W.shape[0], -1, group_size)
    return Bounds(*torch.aminmax(grouped, dim=2))


def expand(values: Shaped[Tensor, "out groups"], group_size: int, size: int) -> Shaped[Tensor, "out size"]:
    """Repeat each group's value for each of its inputs."""
    return values.repeat_interleave(group_size, dim=1)[:, :size]


def split(W: Shaped[Tensor, "out in"], group_size: int) -> list[Shaped[Tensor, "out groups size"]]:
    """Views of `W` with the groups as a separate axis: all full groups, then the shorter last group if there is one."""
    whole = W.shape[1] - W.shape[1] % group_size
    parts = [W[:, :whole], W[:, whole:]]
    return [part.unflatten(1, (-1, min(group_size, part.shape[1]))) for part in parts if part.shape[1]]


def side_by_side(parts: list[Float[Tensor, "out _ _"]]) -> Float[Tensor, "out in"]:
    """Join values computed group by group into a whole weight."""
    flat = [part.flatten(1) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
