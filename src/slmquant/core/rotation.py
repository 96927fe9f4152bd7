"""Orthogonal matrices: random ones, fast ones, and gradient steps that stay orthogonal.

A rotation `R` multiplies row vectors, `x R`, as torch stores activations; weights that read `x` become `W R`, since
`(x R)(W R)ᵀ = x Wᵀ`. Reflections count as rotations here, as in the literature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from slmquant.core.hadamard import Hadamard, hadamard

_STEP_BOUND = 1.0
_EPSILON = 1e-8


@runtime_checkable
class Rotation(Protocol):
    """An orthogonal matrix that can be applied to row vectors and undone."""

    @property
    def order(self) -> int:
        """Rows and columns."""
        ...

    def apply(self, x: Float[Tensor, "*rows order"]) -> Float[Tensor, "*rows order"]:
        """`x R`, in the dtype of `x`."""
        ...

    def undo(self, x: Float[Tensor, "*rows order"]) -> Float[Tensor, "*rows order"]:
        """`x Rᵀ`, in the dtype of `x`."""
        ...


@dataclass(frozen=True, eq=False)
class SignedHadamard:
    """A randomized Hadamard matrix `diag(signs) H`, or a variant that keeps the mean of its input.

    To keep means it is followed by the reflection `I − 2 v vᵀ` that maps the image of the vector of ones back to the
    vector of ones. LayerNorm, which subtracts the mean, commutes with such rotations, RMSNorm with any rotation. `v` is
    as flat as a random vector, so outliers are spread as well as without the reflection.

    Attributes:
        hadamard: The Hadamard transform.
        signs: ±1, shape `(order,)`, in any float dtype.
        keeps_mean: Whether `1ᵀ R = 1ᵀ`.
    """

    hadamard: Hadamard
    signs: Float[Tensor, " order"]
    keeps_mean: bool = False

    @property
    def order(self) -> int:
        """Rows and columns."""
        return self.hadamard.order

    def apply(self, x: Float[Tensor, "*rows order"]) -> Float[Tensor, "*rows order"]:
        """`x diag(signs) H`, then reflected if means are kept."""
        return self._reflected(self.hadamard.apply(x * self.signs.to(x.device, x.dtype)))

    def undo(self, x: Float[Tensor, "*rows order"]) -> Float[Tensor, "*rows order"]:
        """`x` times the transpose of the matrix of `apply`."""
        return self.hadamard.undo(self._reflected(x)) * self.signs.to(x.device, x.dtype)

    def _reflected(self, x: Tensor) -> Tensor:
        if not self.keeps_mean:
            return x
        ones = torch.full((self.order,), 1 / math.sqrt(self.order), dtype=torch.float64, device=x.device)
        v = self.hadamard.apply(ones * self.signs.to(ones)) - ones
        length = torch.linalg.vector_norm(v)
        if length < _EPSILON:  # the vector of ones is already mapped to itself
            return x
        v = (v / length).to(x.dtype)
        reflected: Tensor = x - 2 * (x @ v)[..., None] * v
        return reflected


@dataclass(frozen=True, eq=False)
class DenseRotation:
    """A rotation by an explicit matrix.

    Attributes:
        values: The matrix, orthogonal up to the rounding of its dtype.
    """

    values: Float[Tensor, "order order"]

    @property
    def order(self) -> int:
        """Rows and columns."""
        return len(self.values)

    def apply(self, x: Float[Tensor, "*rows order"]) -> Float[Tensor, "*rows order"]:
        """`x R`."""
        return x @ self.values.to(x.device, x.dtype)

    def undo(self, x: Float[Tensor, "*rows order"]) -> Float[Tensor, "*rows order"]:
        """`x Rᵀ`."""
        return x @ self.values.to(x.device, x.dtype).T


def matrix_of(rotation: Rotation) -> Float[Tensor, "order order"]:
    """The matrix of a rotation, in float64."""
    return rotation.apply(torch.eye(rotation.order, dtype=torch.float64))


def random_hadamard(order: int, generator: Generator, keeps_mean: bool = False) -> SignedHadamard:
    """A Hadamard matrix whose rows have random signs (Ashkboos et al., QuaRot, section 3; arXiv 2404.00456)."""
    signs = torch.randint(0, 2, (order,), generator=generator).double() * 2 - 1
    return SignedHadamard(hadamard(order), signs, keeps_mean)


def random_orthogonal(order: int, generator: Generator) -> Float[Tensor, "order order"]:
    """An orthogonal matrix drawn uniformly, in float64: `Q` of a Gaussian's `Q R`, with the diagonal of `R` positive
    (Mezzadri, "How to generate random matrices from the classical compact groups", 2007).
    """
    Q, R = torch.linalg.qr(torch.randn(order, order, generator=generator, dtype=torch.float64))
    drawn: Tensor = Q * torch.diagonal(R).sign()
    return drawn


class CayleyState(NamedTuple):
    """State of gradient descent over orthogonal matrices.

    Attributes:
        X: The matrices.
        momentum: Their momentum; zeros at the start.
    """

    X: Float[Tensor, "*batch n n"]
    momentum: Float[Tensor, "*batch n n"]


def cayley(W: Float[Tensor, "*batch n n"], X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """`(I − W/2)⁻¹ (I + W/2) X` for skew-symmetric `W`: orthogonal if `X` is (Li et al., 2020, eq. 3)."""
    identity = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
    moved: Tensor = torch.linalg.solve(identity - W / 2, X + W @ X / 2)
    return moved


def cayley_sgd_step(
    state: CayleyState,
    gradient: Float[Tensor, "*batch n n"],
    lr: float,
    momentum: float = 0.0,
    keeps_mean: bool = False,
    relative: bool = False,
) -> CayleyState:
    """One step of Cayley SGD with momentum (Li, Fuxin, Todorovic, ICLR 2020, arXiv 2002.01113, algorithm 1).

    `M ← β M − G`, `Ŵ = M Xᵀ − ½ X (Xᵀ M Xᵀ)`, `W = Ŵ − Ŵᵀ`, `M ← W X`, and `X` moves along the Cayley curve of
    `α W` with `α = min(lr, 1 / ‖W‖₁)`. The authors approximate the curve by a fixed-point iteration; at our sizes the
    linear system is solved directly, so `X` stays orthogonal up to rounding.

    Args:
        state: Orthogonal matrices and their momentum.
        gradient: `∂L/∂X`.
        lr: Learning rate.
        momentum: `β`.
        keeps_mean: Whether to preserve `X 1 = 1`: `W` is then projected to matrices with `W 1 = 0`.
        relative: Whether `lr` is a share of the longest step, so that `α = lr / ‖W‖₁` whatever the size of the
            gradient.
    """
    X = state.X
    M = momentum * state.momentum - gradient
    MXt = M @ X.mT
    W_hat = MXt - X @ (X.mT @ MXt) / 2
    W = W_hat - W_hat.mT
    if keeps_mean:
        W = W - W.mean(-1, keepdim=True)
        W = W - W.mean(-2, keepdim=True)
    norm = W.abs().sum(-2).amax(-1)[..., None, None]
    longest = _STEP_BOUND / (norm + _EPSILON)
    step = lr * longest if relative else longest.clamp(max=lr)
    return CayleyState(cayley(step * W, X), W @ X)
