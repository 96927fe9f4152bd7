"""GPTAQ: GPTQ whose target is what the full-precision model gives, not what the weight gives on quantized inputs.

Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration" (ICML 2025, arXiv 2504.02692).

With `X` the inputs behind quantized blocks and `X̃ = X + ΔX` those of the full-precision model, `min ‖Ŵ X − W X̃‖²` is
sought, one column after the other. When the turn of column `q` comes, with value `w` rounded to `v`, it should have
given `w X̃_q` and gives `v X_q`. The columns that follow, F, make up for the difference by least squares:

    ΔW_F = [(w − v) X_q + w ΔX_q] X_Fᵀ (X_F X_Fᵀ)⁻¹

The first term is GPTQ's. The second is `w P_q` with `P_qF = (ΔX X_Fᵀ)_q (X_F X_Fᵀ)⁻¹`. With `(X Xᵀ)⁻¹ = UᵀU` and `U`
upper triangular, `(X_F X_Fᵀ)⁻¹ = U_FFᵀ U_FF` for the columns that follow any `q`, so that all of `P` comes at once:

    P = striu(ΔX Xᵀ Uᵀ) U

since row `q` of `ΔX Xᵀ Uᵀ` meets, behind the diagonal, no column of `ΔX Xᵀ` but those in F.
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
    """Quantize `W` so that it gives on `X` nearly what it gave on `X̃`.

    Args:
        W: The weight; it is not changed.
        H: `E[x xᵀ]` of the inputs behind quantized blocks.
        cross: `E[(x̃ − x) xᵀ]`, `x̃` being the full-precision model's input at the same token.
        grid: The numbers to round to.
        damp: As in `core.gptq.gptq`.
        act_order: As in `core.gptq.gptq`.
        strength: What `P` is multiplied by, in [0, 1]; 0 is GPTQ.
        scales: As in `core.gptq.gptq`.

    Raises:
        NumericalError: `H` is not finite or cannot be factorised.
        ValueError: The shapes do not fit.
    """
    order = column_order(W, H, act_order)
    if cross.shape != H.shape:
        raise ValueError(f"a Hessian of shape {tuple(H.shape)} needs as large a cross moment, got {tuple(cross.shape)}")
    U = inverse_cholesky(H[order][:, order], damp)
    P = strength * torch.triu(cross[order][:, order].to(U.dtype) @ U.T, diagonal=1) @ U
    active = W.float().masked_fill(H.diagonal() == 0, 0)
    affine = found_scales(active, grid, order, U.float(), scales)
    return round_columns(active, grid, order, U.float(), P.float(), act_order=act_order, affine=affine)
