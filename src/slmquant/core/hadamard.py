"""Hadamard matrices of every order that the classical constructions reach, and fast products with them.

A Hadamard matrix `H` has entries ±1 and `H Hᵀ = n·I`. Four constructions and their Kronecker products are used; a
Kronecker product of Hadamard matrices is a Hadamard matrix:

- Sylvester (1867): `[[1, 1], [1, −1]]`, and thus every power of two;
- Paley I (1933): order `q + 1` for a prime power `q ≡ 3 (mod 4)`;
- Paley II (1933): order `2(q + 1)` for a prime power `q ≡ 1 (mod 4)`;
- Williamson (1944): orders 92, 116 and 172, which Paley misses (`core.williamson`).

Together they give 12, 20, 28, 36, 44, 60, 76, 108, 140, 148 ... times any power of two, which covers the widths of
small models: 576 = 36·16, 896 = 28·32, 960 = 60·16, 4864 = 76·64, 5504 = 172·32. Of the multiples of four below 200
they miss 156 and 188. For other orders the transform is block-diagonal, with the largest blocks that divide the order
and can be built; `Hadamard.blocks` is their number.

Each matrix is computed on first use.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slmquant.core import williamson

_LARGEST_SYLVESTER = 32
_LARGEST_PALEY = 1024


@dataclass(frozen=True)
class Hadamard:
    """The orthogonal matrix `I ⊗ (F₁ ⊗ F₂ ⊗ ...) / √block`; make one with `hadamard(order)`.

    Attributes:
        order: Rows and columns of the whole matrix.
        factors: Orders of the Hadamard matrices `Fᵢ` whose Kronecker product is a block.
    """

    order: int
    factors: tuple[int, ...]

    @property
    def block(self) -> int:
        """Order of one Hadamard matrix on the diagonal."""
        return math.prod(self.factors)

    @property
    def blocks(self) -> int:
        """Number of blocks; 1 if the whole is a Hadamard matrix."""
        return self.order // self.block

    def apply(self, x: Float[Tensor, "*rows order"]) -> Float[Tensor, "*rows order"]:
        """`x H`, with `order · Σ factors` multiplications per row."""
        return self._multiply(x, transposed=False)

    def undo(self, x: Float[Tensor, "*rows order"]) -> Float[Tensor, "*rows order"]:
        """`x Hᵀ = x H⁻¹`."""
        return self._multiply(x, transposed=True)

    def matrix(self) -> Float[Tensor, "order order"]:
        """The matrix itself, in float64."""
        return self.apply(torch.eye(self.order, dtype=torch.float64))

    def _multiply(self, x: Tensor, transposed: bool) -> Tensor:
        """Multiply one axis after the other; each moves to the end, so that the final order is the original one."""
        y = x.reshape(-1, self.block)
        for size in self.factors:
            factor = _factor(size).to(x.device, x.dtype)
            y = y.reshape(-1, size, self.block // size).transpose(1, 2) @ (factor.T if transposed else factor)
        return y.reshape(x.shape) / math.sqrt(self.block)


@functools.cache
def hadamard(order: int) -> Hadamard:
    """The Hadamard transform of `order`, block-diagonal if no construction gives the whole matrix.

    Raises:
        ValueError: `order` is not positive.
    """
    if order < 1:
        raise ValueError(f"Hadamard matrix of order {order}; expected at least 1")
    divisors = (size for size in range(order, 0, -1) if order % size == 0)
    return next(Hadamard(order, factors) for size in divisors if (factors := _factors(size)) is not None)


@functools.cache
def _factors(order: int) -> tuple[int, ...] | None:
    """Orders of buildable matrices whose product is `order`, with the least sum; None if there are none."""
    if order <= 2:
        return () if order == 1 else (2,)
    if order % 4:
        return None
    odd = order // (order & -order)
    if odd == 1:
        return _split_power_of_two(order)
    choices = []
    for size in range(4 * 3, min(order, _LARGEST_PALEY) + 1, 4):
        if order % size == 0 and _can_be_built(size) and (rest := _factors(order // size)) is not None:
            choices.append((size, *rest))
    return min(choices, key=lambda sizes: (sum(sizes), sizes), default=None)


def _split_power_of_two(order: int) -> tuple[int, ...]:
    """Split into Sylvester factors of about equal size; the sum of their orders is the cost."""
    exponent, most = order.bit_length() - 1, _LARGEST_SYLVESTER.bit_length() - 1
    count = -(-exponent // most)
    return tuple(2 ** (exponent // count + (index < exponent % count)) for index in range(count))


@functools.cache
def _factor(order: int) -> Float[Tensor, "order order"]:
    """The ±1 matrix of a factor, in float64."""
    if order & (order - 1) == 0:
        H = torch.ones(1, 1, dtype=torch.float64)
        while len(H) < order:
            H = torch.cat([torch.cat([H, H], dim=1), torch.cat([H, -H], dim=1)])
        return H
    if order in williamson.ORDERS:
        return williamson.williamson(order)
    field = _paley_field(order)
    if field is None:
        raise ValueError(f"no construction gives a Hadamard matrix of order {order}")
    return _paley(field, first=order == field + 1)


def _can_be_built(order: int) -> bool:
    """Whether a single construction gives a matrix of `order`, which must not be a power of two."""
    return order in williamson.ORDERS or _paley_field(order) is not None


def _paley_field(order: int) -> int | None:
    """The prime power `q` for which a construction of Paley gives `order`, or None."""
    if order % 4 == 0 and _prime_of(order - 1) is not None:
        return order - 1  # q = order − 1 is 3 modulo 4
    q = order // 2 - 1
    return q if order % 4 == 0 and q % 4 == 1 and _prime_of(q) is not None else None


def _paley(q: int, first: bool) -> Float[Tensor, "order order"]:
    """Paley's matrix over the field of `q` elements, by its first construction or the second.

    With the Jacobsthal matrix `Q[a, b] = χ(a − b)`, where `χ` is 1 for squares, −1 for others and 0 for 0, the
    bordered matrix `S = [[0, 1ᵀ], [±1, Q]]` satisfies `S Sᵀ = q·I`. If `q ≡ 3 (mod 4)`, `S` is skew and `I + S` is
    Hadamard; if `q ≡ 1`, `S` is symmetric and `S ⊗ [[1, 1], [1, −1]] + I ⊗ [[1, −1], [−1, −1]]` is Hadamard.
    """
    elements = _field_elements(q)
    prime = int(elements.max()) + 1
    places = prime ** torch.arange(elements.shape[1])
    character = -torch.ones(q, dtype=torch.float64)
    character[_squares(elements, prime)] = 1.0
    character[0] = 0.0
    differences = ((elements[:, None] - elements[None]) % prime) @ places

    S = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    S[0, 1:] = 1.0
    S[1:, 0] = -1.0 if first else 1.0
    S[1:, 1:] = character[differences]
    identity = torch.eye(q + 1, dtype=torch.float64)
    if first:
        return identity + S
    return torch.kron(S, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)) + torch.kron(
        identity, torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    )


def _prime_of(q: int) -> int | None:
    """The prime that `q` is a power of; None if `q` is not a prime power."""
    prime = next((p for p in range(2, math.isqrt(max(q, 0)) + 1) if q % p == 0), q)
    power = prime
    while 1 < power < q:
        power *= prime
    return prime if power == q > 1 else None


def _field_elements(q: int) -> Int[Tensor, "q degree"]:
    """Elements of the field of `q = pᵏ`, as coefficients modulo `p`, lowest first; row `i` spells `i` in base `p`."""
    prime = _prime_of(q)
    if prime is None:
        raise ValueError(f"there is no field of {q} elements; expected a prime power")
    degree = round(math.log(q, prime))
    return torch.arange(q)[:, None] // prime ** torch.arange(degree) % prime


def _squares(elements: Int[Tensor, "q degree"], prime: int) -> Int[Tensor, " squares"]:
    """Indices of the elements that are squares, including 0; some occur twice.

    Polynomials are multiplied modulo a monic polynomial of degree `degree`. It is irreducible, and the ring a field,
    exactly if no two nonzero elements have the product 0; the first such polynomial is taken.
    """
    q, degree = elements.shape
    places = prime ** torch.arange(degree)
    if degree == 1:
        return elements[:, 0] * elements[:, 0] % prime
    for tail in elements:  # xᵏ = −tail
        products = torch.zeros(q, q, 2 * degree - 1, dtype=torch.long)
        for i in range(degree):
            for j in range(degree):
                products[:, :, i + j] += elements[:, None, i] * elements[None, :, j]
        for power in range(2 * degree - 2, degree - 1, -1):
            high = products[:, :, power : power + 1] % prime
            products[:, :, power - degree : power] -= high * tail
        numbers = products[:, :, :degree] % prime @ places
        if bool((numbers[1:, 1:] != 0).all()):
            return torch.diagonal(numbers)
    raise AssertionError(f"there is an irreducible polynomial of every degree over the field of {prime} elements")
