"""Quantized weights: the map `w ≈ scale · (element(code) − zero_point)` and its parameters.

A grid makes three choices: the numbers (`core.elements`), the rule that computes a scale from a range of weights, and
the storage of scales (`core.scales`). Integers follow Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference" (CVPR 2018), eq. 1: symmetric codes lie in `[−2^(b−1), 2^(b−1) − 1]` with
no zero point, asymmetric ones in `[0, 2^b − 1]`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from slmquant.core import groups
from slmquant.core.elements import Elements, Integers
from slmquant.core.minifloat import power_below
from slmquant.core.quantized_tensor import QuantizedTensor
from slmquant.core.scales import Packing, Parts, Plain, ScaleStorage

__all__ = ["AffineParams", "CodeRange", "Grid", "QuantizedTensor", "Rule"]

Rule = Literal["span", "extreme", "power", "least squares"]
"""Rule for the scales of a symmetric grid, see `Grid.cover`."""


class CodeRange(NamedTuple):
    """Smallest and largest code, both included."""

    low: int
    high: int


@dataclass(frozen=True)
class AffineParams:
    """Scale and zero point of each group; `rows` is `out`, or 1 if the whole tensor shares one scale.

    Unpacks as `scale, zero_point`.

    Attributes:
        scale: Never 0. Positive, except for GGUF's types, which put the weight of largest magnitude on the lowest
            code, and for scales found by a search (`core.kquant`).
        zero_point: In units of codes, held as floats; all 0 if symmetric.
        parts: The stored form, if it came from a grid. It may be stale after a change of the numbers: `Grid.stored`
            recomputes parts that disagree with scale and zero point.
    """

    scale: Float[Tensor, "*shape"]
    zero_point: Float[Tensor, "*shape"]
    parts: Parts | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.scale, self.zero_point))


@dataclass(frozen=True)
class Grid:
    """The set of numbers that a weight is rounded to.

    Attributes:
        bits: Bits of a code, 1 to 8.
        symmetric: True for no zero points.
        group_size: Inputs of a channel that share a scale; at least `in` for one scale per channel.
        scale_bits: Stored bits of a scale, 16 (float16) or 32, unless `layout` is given.
        per_tensor: One scale for the whole weight.
        real_zero_point: Zero points are stored as float16, not rounded to a code.
        numbers: The numbers that codes stand for; None for the integers implied by `bits` and `symmetric`.
        rule: Rule for the scale of a symmetric grid.
        layout: Storage of the scales; None stores each by itself in `scale_bits`.
    """

    bits: int
    symmetric: bool = True
    group_size: int = sys.maxsize
    scale_bits: int = 32
    per_tensor: bool = False
    real_zero_point: bool = False
    numbers: Elements | None = None
    rule: Rule = "span"
    layout: ScaleStorage | None = None

    def __post_init__(self) -> None:
        if self.numbers is not None and self.numbers.bits != self.bits:
            raise ValueError(f"{self.numbers.name} has codes of {self.numbers.bits} bits, the grid says {self.bits}")
        if not self.symmetric and not self.uniform:
            raise ValueError(f"{self.elements.name} takes no zero point; only integers do")

    @property
    def elements(self) -> Elements:
        """The numbers that codes stand for."""
        return self.numbers or Integers.of(self.bits, self.symmetric)

    @property
    def storage(self) -> ScaleStorage:
        """Storage of the scales."""
        return self.layout or Plain(self.scale_bits)

    @property
    def packings(self) -> Mapping[str, Packing]:
        """Parts that are stored packed; all others are stored in their own dtype."""
        if self.symmetric or self.real_zero_point or self.storage.holds_shift:
            return self.storage.packings
        return {**self.storage.packings, "zero_point": Packing(self.bits)}

    @property
    def code_range(self) -> CodeRange:
        """The smallest and the largest code."""
        elements = self.elements
        if isinstance(elements, Integers):
            return CodeRange(elements.low, elements.high)
        return CodeRange(0, 2**self.bits - 1)

    @property
    def uniform(self) -> bool:
        """Whether each code is its own number: `w = scale · (code − zero_point)`, with equal steps."""
        return isinstance(self.elements, Integers)

    @property
    def spans_rows(self) -> bool:
        """Whether parameters of a row depend on other rows; such weights are rounded one by one, not stacked."""
        return self.per_tensor or self.storage.spans_rows

    @property
    def spans_groups(self) -> bool:
        """Whether parameters of a group depend on more than its own range; all are then fitted in advance."""
        return self.spans_rows or self.storage.spans_groups or self.rule == "least squares"

    def fit(self, W: Float[Tensor, "out in"]) -> AffineParams:
        """Fit parameters to each group of `W`, or to all of it: cover its range, or minimise its squared error."""
        if self.per_tensor:
            W = W.reshape(1, -1)
        if self.rule == "least squares":
            parts = groups.split(W, min(self.group_size, W.shape[1]))
            scale = torch.cat([_best_ternary_scale(part) for part in parts], dim=1)
            return self._store(scale, torch.zeros_like(scale))
        return self.cover(groups.bounds(W, min(self.group_size, W.shape[1])))

    def cover(self, bounds: groups.Bounds) -> AffineParams:
        """Compute parameters that cover given ranges; a scale is rounded to its stored value before it is used.

        Symmetric, by `rule`:

        * `span`: `scale = max|w| / ((high − low) / 2)`, so that both sides of the elements are used, and with integers
          only the extreme positive value is clipped, by half a step; this is the convention of GPTQ's code and of
          compressed-tensors. With elements that are symmetric about 0, `max|w|` falls on the largest element.
        * `extreme`: the weight of largest magnitude falls on the lowest code, whatever its sign, as in ggml.
        * `power`: `2^(floor(log2 max|w|) − floor(log2 high))`, the rule of the OCP microscaling formats; values above
          `high` are clipped.
        * `least squares`, for ternary weights: half of `max|w|`, near the best for a group of 64 normal weights.
          `fit`, which sees the weights, finds the best.

        Asymmetric: the range is widened to include 0, so that 0 is exact if zero points are whole numbers. A group of
        zeros gets codes that stand for 0.
        """
        low, high = bounds
        elements = self.elements
        if not self.symmetric:
            low, high = low.clamp(max=0), high.clamp(min=0)
            return self._store((high - low) / (elements.high - elements.low), -low)
        largest = torch.maximum(low.abs(), high.abs())
        if self.rule == "extreme":
            scale = torch.where(-low >= high, low, high) / elements.low
        elif self.rule == "power":
            scale = torch.where(largest > 0, power_below(largest), largest)
            scale = scale / float(power_below(torch.tensor(float(elements.high))))
        elif self.rule == "least squares":
            scale = largest / 2
        else:
            scale = 2 * largest / (elements.high - elements.low)
        return self._store(scale, torch.zeros_like(scale))

    def stored(self, affine: AffineParams) -> AffineParams:
        """The nearest storable parameters with their parts; `affine` itself if it already matches its parts."""
        if affine.parts is not None:
            held = self.read(affine.parts)
            if all(torch.equal(said, given.float()) for said, given in zip(held, affine, strict=True)):
                return affine
        return self._store(affine.scale, affine.scale * affine.zero_point)

    def read(self, parts: Parts) -> AffineParams:
        """Read parameters from stored parts, in float32."""
        scale, shift = self.storage.decode(parts)
        if self.symmetric:
            return AffineParams(scale, torch.zeros_like(scale), parts)
        return AffineParams(scale, parts["zero_point"].float() if shift is None else shift / scale, parts)

    def _store(self, scale: Float[Tensor, ...], shift: Float[Tensor, ...]) -> AffineParams:
        """Parameters after storing, in the dtype of `scale`; `shift` is minus the number that code 0 stands for."""
        parts = dict(self.storage.encode(scale, shift))
        if not self.symmetric and not self.storage.holds_shift:
            zero_point = shift / self.storage.decode(parts).scale
            if self.real_zero_point:
                limit = torch.finfo(torch.float16).max
                parts["zero_point"] = zero_point.clamp(-limit, limit).half()
            else:
                parts["zero_point"] = zero_point.round().clamp(*self.code_range).to(torch.uint8)
        held = self.read(parts)
        return AffineParams(held.scale.to(scale.dtype), held.zero_point.to(scale.dtype), parts)

    def encode(self, W: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Nearest codes, held as floats, for scales and zero points that broadcast against `W`."""
        return self.elements.nearest(W / scale if self.symmetric else W / scale + zero_point)

    def decode(self, codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Numbers of codes held as floats, for scales and zero points that broadcast against them."""
        values = self.elements.values(codes)
        return scale * (values if self.symmetric else values - zero_point)

    def quantize(self, W: Float[Tensor, "out in"], affine: AffineParams | None = None) -> QuantizedTensor:
        """Round to nearest. Parameters are fitted if none are given, else rounded to storable ones."""
        affine = self.fit(W) if affine is None else self.stored(affine)
        codes = [self.encode(part, *parameters) for part, parameters in self._by_group(W, affine)]
        return self.assemble(_side_by_side(codes), affine)

    def rounded(self, W: Float[Tensor, "out in"], affine: AffineParams | None = None) -> Float[Tensor, "out in"]:
        """`quantize(W, affine).dequantize()` without building codes; for searches."""
        affine = self.fit(W) if affine is None else self.stored(affine)
        numbers = [
            self.decode(self.encode(part, *parameters), *parameters) for part, parameters in self._by_group(W, affine)
        ]
        return _side_by_side(numbers)

    def _by_group(
        self, W: Float[Tensor, "out in"], affine: AffineParams
    ) -> Iterator[tuple[Float[Tensor, "out groups size"], tuple[Tensor, Tensor]]]:
        """Yield the full groups, then a shorter last one, each with scales and zero points that broadcast to it."""
        start = 0
        for part in groups.split(W, min(self.group_size, W.shape[1])):
            stop = start + part.shape[1]
            yield part, (affine.scale[:, start:stop, None], affine.zero_point[:, start:stop, None])
            start = stop

    def assemble(self, codes: Float[Tensor, "out in"], affine: AffineParams) -> QuantizedTensor:
        """Build a `QuantizedTensor` from codes held as floats and their parameters."""
        return self.restore(codes, self.stored(affine).parts or {})

    def restore(self, codes: Shaped[Tensor, "out in"], parts: Parts) -> QuantizedTensor:
        """Build a `QuantizedTensor` from codes and stored parts."""
        affine = self.read(parts)
        exact = self.real_zero_point or self.storage.holds_shift
        zero_point = affine.zero_point if exact else affine.zero_point.to(torch.uint8)
        return QuantizedTensor(
            codes=codes.to(torch.int8 if self.elements.signed else torch.uint8),
            scale=affine.scale.contiguous(),
            zero_point=None if self.symmetric else zero_point.contiguous(),
            grid=self,
            parts=parts,
        )


def _side_by_side(parts: list[Float[Tensor, "out _ _"]]) -> Float[Tensor, "out in"]:
    """Join values computed group by group into a whole weight."""
    flat = [part.flatten(1) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)


def _best_ternary_scale(W: Float[Tensor, "out groups size"]) -> Float[Tensor, "out groups"]:
    """The scale `s` that minimises `Σ (w − s·t)²` over `t` in {−1, 0, 1}, exactly.

    With the `k` largest magnitudes kept, the best `s` is their mean and the error falls by `(Σ|w|)² / k`; all `k` are
    tried and the best is taken.
    """
    sums = W.abs().sort(dim=2, descending=True).values.cumsum(dim=2)
    kept = torch.arange(1, W.shape[2] + 1, device=W.device)
    best = (sums.square() / kept).argmax(dim=2, keepdim=True)
    return (sums.gather(2, best) / (best + 1))[..., 0]
