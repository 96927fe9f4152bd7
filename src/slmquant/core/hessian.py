"""The Hessian of a linear layer's squared output error: `H = Σ w x xᵀ`, up to a factor that cancels.

For `min ‖(W − Ŵ) X‖²` the Hessian over one row of `W` is `2 X Xᵀ`, the same for all rows (Frantar et al.,
"Optimal Brain Compression", NeurIPS 2022). All tokens have equal weight there, so a token whose input is a thousand
times as large as all others (in some blocks, the first token) dominates. `Weighting` lists other weights.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.errors import NumericalError

Weighting = Literal["uniform", "energy", "importance"]
"""Weight of a token: `uniform`, `w = 1`, as in the papers; `energy`, `w = 1 / |x|²`, so that every token's error counts
relative to its input; `importance`, `w = |∂L/∂y|²`, with `y` the output of the linears for the token and `L` the
model's loss under labels drawn from the model itself, see `calib.importance`."""

_PANELS = 4
_MOST_DAMP = 10.0


def add_outer_(H: Float[Tensor, "in in"], X: Float[Tensor, "tokens in"]) -> None:
    """Add `XᵀX` to the upper triangle of `H`, panel by panel.

    Only the panels on and above the diagonal are computed: with four panels, 10/16 of the multiplications. Below the
    block diagonal `H` is not touched; `finish_` fills it by symmetry.

    Inputs in bfloat16 are multiplied in bfloat16, summed in float32, and rounded to bfloat16 once per call: an error of
    at most one part in 500 in each call's sum, which averages out over calls and lies far below the damping.
    """
    step = -(-H.shape[0] // _PANELS)
    for start in range(0, H.shape[0], step):
        add_product_(H[start : start + step, start:], X[:, start : start + step], X[:, start:])


def add_product_(H: Float[Tensor, "a b"], A: Float[Tensor, "tokens a"], B: Float[Tensor, "tokens b"]) -> None:
    """Add `AᵀB` to `H`, multiplied in the dtype of `A` and `B`."""
    if A.dtype == H.dtype:
        H.addmm_(A.T, B)
    else:
        H.add_(A.T @ B)


def multiplied(X: Float[Tensor, "*tokens in"], dtype: torch.dtype) -> Float[Tensor, "tokens in"]:
    """Inputs of a linear that multiplies in `dtype`, one row per token, in the dtype for second moments.

    That is bfloat16 if `dtype` is, because the linear rounds its inputs to it anyway, and otherwise float32.
    """
    return X.flatten(0, -2).to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)


def weighted(X: Float[Tensor, "tokens in"], weights: Float[Tensor, " tokens"]) -> Float[Tensor, "tokens in"]:
    """Inputs times the square root of their weights, so that `add_outer_` adds `Σ w x xᵀ`; in the dtype of `X`."""
    return (X.float() * weights.sqrt()[:, None]).to(X.dtype)


def energy_weights(X: Float[Tensor, "tokens in"]) -> Float[Tensor, " tokens"]:
    """`1 / |x|²` for each token; 0 for a token of zeros, or of numbers whose squares underflow in float32."""
    energy = torch.linalg.vector_norm(X, dim=1, dtype=torch.float32).square()
    return torch.where(energy >= torch.finfo(torch.float32).tiny, energy.reciprocal(), torch.zeros_like(energy))


def with_first_tokens(
    H: Float[Tensor, "in in"], first: Float[Tensor, "samples in"], share: float, weighting: Weighting
) -> Float[Tensor, "in in"]:
    """`H` with a fixed share for the first token of each window.

    `uniform`: `(1 − s) H + s E[x₀ x₀ᵀ]`, in which a first token of high energy takes more than its share. Otherwise
    both parts are first divided by their traces, and the share is a share of the trace, whatever the tokens' energies.

    Args:
        H: The Hessian of all tokens.
        first: The inputs at the first token of each window.
        share: Share of the first tokens, in [0, 1].
        weighting: Weighting of tokens in `H`.
    """
    if weighting == "uniform":
        return (1 - share) * H + share * (first.T @ first) / len(first)
    first = weighted(first, energy_weights(first))
    moment = first.T @ first
    trace, first_trace = H.trace(), moment.trace()
    if not (trace > 0 and first_trace > 0):
        return H
    return (1 - share) / trace * H + share / first_trace * moment


def cross_with_first_tokens(
    cross: Float[Tensor, "in in"],
    differences: Float[Tensor, "samples in"],
    H: Float[Tensor, "in in"],
    first: Float[Tensor, "samples in"],
    share: float,
    weighting: Weighting,
) -> Float[Tensor, "in in"]:
    """The cross moment `E[d xᵀ]` with the share that `with_first_tokens` gives the first tokens in `H`.

    Args:
        cross: The cross moment of all tokens, with the same weighting as `H`.
        differences: `d` at the first token of each window.
        H: The Hessian of all tokens, before `with_first_tokens`.
        first: The inputs at the first token of each window.
        share: Share of the first tokens, in [0, 1].
        weighting: Weighting of tokens in `H`.
    """
    if weighting == "uniform":
        return (1 - share) * cross + share * (differences.T @ first) / len(first)
    weights = energy_weights(first)
    first, differences = weighted(first, weights), weighted(differences, weights)
    trace, first_trace = H.trace(), first.square().sum()
    if not (trace > 0 and first_trace > 0):
        return cross
    return (1 - share) / trace * cross + share / first_trace * (differences.T @ first)


def finish_(H: Float[Tensor, "in in"], total: float) -> Float[Tensor, "in in"]:
    """Divide `H` by `total` (number of tokens or sum of weights) and fill its lower half, in place; return `H`."""
    H.div_(total).triu_()
    H.add_(torch.triu(H, diagonal=1).T)
    return H


def inverse_cholesky(H: Float[Tensor, "in in"], damp: float) -> Float[Tensor, "in in"]:
    """The upper triangular `U` with `(H + λI)⁻¹ = UᵀU`, in float64; `λ = damp · mean(diag H)`.

    GPTQ reads its update coefficients from the rows of `U`, which is computed without inverting `H`: with `J` the
    exchange matrix and `J(H + λI)J = LLᵀ`, the matrix `R = JLJ` is upper triangular and `U = R⁻¹`.

    The zero diagonal entry of an input that was never active is replaced by the mean of the diagonal (by 1 if that
    is 0). If `H` is too close to singular for `damp`, the damping is increased tenfold, repeatedly.

    Raises:
        NumericalError: `H` holds NaN or infinity, or cannot be factorised even with `damp` = 10.
    """
    if not torch.isfinite(H).all():
        raise NumericalError("the Hessian is not finite: the calibration activations hold NaN or infinity")
    H = H.double().clone()
    diagonal = H.diagonal()
    mean = diagonal.mean()
    diagonal[diagonal == 0] = 1.0 if mean == 0 else mean
    while damp <= _MOST_DAMP:
        flipped = H.flip(0, 1)
        flipped.diagonal().add_(damp * mean)
        L, info = torch.linalg.cholesky_ex(flipped)
        if info == 0:
            R = L.flip(0, 1)
            identity = torch.eye(len(H), dtype=H.dtype, device=H.device)
            U: Tensor = torch.linalg.solve_triangular(R, identity, upper=True)
            return U
        damp = max(10 * damp, 1e-6)
    raise NumericalError(f"the Hessian of size {len(H)} is not positive definite even when damped by {_MOST_DAMP}")
