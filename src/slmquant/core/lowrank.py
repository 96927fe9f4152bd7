"""The low-rank matrix that best compensates for the rounding error.

Zhang, Cheng, Constantinides, Zhao, "LQER: Low-Rank Quantization Error Reconstruction for LLMs" (ICML 2024, arXiv
2402.02446), take the truncated singular value decomposition of the error, scaled by the magnitude of the inputs.
Zhang et al., "QERA: an Analytical Framework for Quantization Error Reconstruction" (ICLR 2025, arXiv 2410.06040),
show that the root of `H = E[x xᵀ]` is the right scaling: it minimises `E‖(E − up·down) x‖²`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.side import LowRank


def low_rank(error: Float[Tensor, "out in"], H: Float[Tensor, "in in"] | None, rank: int) -> LowRank:
    """The branch of rank `rank` that minimises `tr((E − up·down) H (E − up·down)ᵀ)`, rounded to float16.

    With `U` the leading eigenvectors of `E H Eᵀ` it is the projection `U Uᵀ E`: no root of `H` is inverted, so `H` may
    be singular. With more outputs than inputs, `U` is computed from the smaller matrix `RᵀEᵀE R`, `H = R Rᵀ`.

    Args:
        error: `E = W − Ŵ`.
        H: Mean of `x xᵀ` over the inputs; None gives all inputs equal weight.
        rank: Largest number of components; a smaller matrix has fewer.
    """
    rank = min(rank, *error.shape)
    up = _leading(error, H, rank)
    down = up.T @ error
    # float16 is most precise if both factors have the same magnitude
    balance = (down.abs().amax(dim=1) / up.abs().amax(dim=0)).sqrt()
    balance = torch.where(balance > 0, balance, torch.ones_like(balance))
    return LowRank((down / balance[:, None]).half(), (up * balance).half())


def _leading(error: Float[Tensor, "out in"], H: Float[Tensor, "in in"] | None, rank: int) -> Float[Tensor, "out rank"]:
    """An orthonormal basis of the directions with the largest output error."""
    out_features, in_features = error.shape
    if out_features <= in_features:
        weighed = error if H is None else error @ H
        return _eigenvectors(weighed @ error.T, rank)
    rooted = error if H is None else error @ _root(H)
    basis: Tensor = torch.linalg.qr(rooted @ _eigenvectors(rooted.T @ rooted, rank)).Q
    return basis


def _eigenvectors(M: Float[Tensor, "n n"], count: int) -> Float[Tensor, "n count"]:
    """Eigenvectors of the largest eigenvalues of a symmetric matrix."""
    vectors: Tensor = torch.linalg.eigh((M + M.T) / 2).eigenvectors
    return vectors[:, -count:].flip(1)


def _root(H: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
    """`R` with `R Rᵀ = H`; eigenvalues that are negative due to rounding count as 0."""
    decomposed = torch.linalg.eigh(H)
    root: Tensor = decomposed.eigenvectors * decomposed.eigenvalues.clamp(min=0).sqrt()
    return root
