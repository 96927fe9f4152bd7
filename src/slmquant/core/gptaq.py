"""GPTAQ: GPTQ that matches the output of the full-precision model instead of the weight's output on quantized inputs.

Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration" (ICML 2025, arXiv 2504.02692).

With `X` the inputs behind quantized blocks and `X̃ = X + ΔX` those of the full-precision model, GPTAQ minimises
`‖Ŵ X − W X̃‖²`, one column after the other. Column `q`, with value `w` rounded to `v`, should contribute `w X̃_q` but
contributes `v X_q`. The columns that follow, F, compensate for the difference by least squares:

    ΔW_F = [(w − v) X_q + w ΔX_q] X_Fᵀ (X_F X_Fᵀ)⁻¹

The first term is GPTQ's. The second is `w P_q` with `P_qF = (ΔX X_Fᵀ)_q (X_F X_Fᵀ)⁻¹`. With `(X Xᵀ)⁻¹ = UᵀU` and `U`
upper triangular, `(X_F X_Fᵀ)⁻¹ = U_FFᵀ U_FF` for the columns that follow any `q`, so all of `P` is computed at once:

    P = striu(ΔX Xᵀ Uᵀ) U

since row `q` of `ΔX Xᵀ Uᵀ` depends, right of the diagonal, only on the columns of `ΔX Xᵀ` in F.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.gptq import Scales, column_order, found_scales, round_columns
from slmquant.core.hessian import inverse_cholesky


def gptaq(
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"],
    cross: Float[Tensor, "in in"],
    grid: Grid,
    *,
    damp: float = 0.01,
    act_order: bool = False,
    strength: float = 1.0,
    scales: Scales = "range",
) -> QuantizedTensor:
    """Quantize `W` so that its output on `X` is close to its former output on `X̃`.

    Args:
        W: The weight; it is not changed.
        H: `E[x xᵀ]` of the inputs behind quantized blocks.
        cross: `E[(x̃ − x) xᵀ]`, `x̃` being the full-precision model's input at the same token.
        grid: The numbers to round to.
        damp: As in `core.gptq.gptq`.
        act_order: As in `core.gptq.gptq`.
        strength: Multiplier of `P`, in [0, 1]; 0 is GPTQ.
        scales: As in `core.gptq.gptq`.

    Raises:
        NumericalError: `H` is not finite or cannot be factorised.
        ValueError: The shapes do not fit.
    """
    order = column_order(W, H, act_order, grid.elements.block)
    if cross.shape != H.shape:
        raise ValueError(f"the cross moment has shape {tuple(cross.shape)}; expected that of H, {tuple(H.shape)}")
    U = inverse_cholesky(H[order][:, order], damp)
    P = strength * torch.triu(cross[order][:, order].to(U.dtype) @ U.T, diagonal=1) @ U
    active = W.float().masked_fill(H.diagonal() == 0, 0)
    affine = found_scales(active, grid, order, U.float(), scales)
    return round_columns(active, grid, order, U.float(), P.float(), act_order=act_order, affine=affine)
