"""GPTQ for codebooks: rounding a vector of input columns at a time, spreading its error over the columns that follow.

Rounding by blocks with linear feedback is that of QuIP# (Tseng et al., "QuIP#: Even Better LLM Quantization with
Hadamard Incoherence and Lattice Codebooks", ICML 2024, arXiv 2402.04396: block LDLQ), which takes the vector nearest to
the weights. As in GPTVQ (van Baalen et al., "GPTVQ: The Blessing of Dimensionality for LLM Quantization", arXiv
2402.15319), a vector is chosen here for the error that it leaves: with `(H + λI)⁻¹ = UᵀU` and `e` the error of a block
B of columns,

    least of tr(E H Eᵀ) over all later columns = |e U_BB⁻¹|²       update of the columns F that follow: −e U_BB⁻¹ U_BF

of which GPTQ's `e² / U_qq²` is the case of a block of one column.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.codebooks import Codebook
from slmquant.core.scales import AffineParams

_PANEL = 128
"""Columns whose updates are collected before the rest of the matrix is updated; affects speed, not the result."""


def round_vectors(
    W: Float[Tensor, "out in"],
    grid: Grid,
    book: Codebook,
    order: Int[Tensor, " in"],
    U: Float[Tensor, "in in"],
    P: Float[Tensor, "in in"] | None,
    affine: AffineParams,
) -> QuantizedTensor:
    """Round one block of columns after the other.

    Args:
        W: The weight; it is not changed.
        grid: The grid.
        book: The numbers of the grid.
        order: The order of the columns: whole blocks.
        U: As in `core.gptq.round_columns`.
        P: As in `core.gptq.round_columns`; within a block it acts on the values as they are before rounding.
        affine: Scales, storable by the grid.
    """
    size, scales = W.shape[1], affine.scale.T
    columns = W.T[order].contiguous()
    codes = torch.empty_like(columns)
    for start in range(0, size, _PANEL):
        stop = min(start + _PANEL, size)
        errors = torch.empty_like(columns[start:stop])
        for first in range(start, stop, book.block):
            block, before = slice(first, first + book.block), slice(start, first)
            done = errors[: first - start]
            values = columns[block].addmm_(U[before, block].T, done, alpha=-1)
            if P is not None:
                values.addmm_(P[before, block].T, columns[before])
                values.copy_(_within(values, P[block, block]))
            spread = torch.linalg.solve_triangular(U[block, block], _one(book.block, W), upper=True)
            scale = scales[int(order[first]) // grid.group_size]
            codes[block] = book.closest((values / scale).T, spread).T
            errors[first - start : first - start + book.block] = spread.T @ (values - scale * codes[block])
        columns[stop:].addmm_(U[start:stop, stop:].T, errors, alpha=-1)
        if P is not None:
            columns[stop:].addmm_(P[start:stop, stop:].T, columns[start:stop])
    return grid.assemble(codes[torch.argsort(order)].T.contiguous(), affine)


def _within(values: Float[Tensor, "block out"], P: Float[Tensor, "block block"]) -> Float[Tensor, "block out"]:
    """Values of a block after each column had its effect on those that follow it in the block."""
    solved: Tensor = torch.linalg.solve_triangular((_one(len(P), P) - P).T, values, upper=False, unitriangular=True)
    return solved


def _one(size: int, like: Tensor) -> Float[Tensor, "size size"]:
    return torch.eye(size, dtype=like.dtype, device=like.device)
