"""Grids and weights on them: the map `w ≈ scale · (element(code) − zero_point)` and its parameters.

A grid makes three choices: the numbers (`core.elements`), the rule that computes a scale from a range of weights
(`core.scale_rules`), and the storage of scales (`core.scales`). Integers follow Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (CVPR 2018), eq. 1: symmetric codes lie in
`[−2^(b−1), 2^(b−1) − 1]` with no zero point, asymmetric ones in `[0, 2^b − 1]`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from slmquant.core import groups
from slmquant.core.elements import Elements, Integers
from slmquant.core.minifloat import SMALLEST_HALF
from slmquant.core.pack import packed_bytes
from slmquant.core.scale_rules import Rule, best_ternary, covering
from slmquant.core.scales import AffineParams, Packing, Parts, Plain, ScaleStorage
from slmquant.core.side import Side

__all__ = ["CodeRange", "Grid", "QuantizedTensor"]


class CodeRange(NamedTuple):
    """Smallest and largest code, both included."""

    low: int
    high: int


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
        if self.uniform or elements.signed:
            return CodeRange(int(elements.low), int(elements.high))
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
            scale = torch.cat([best_ternary(part) for part in parts], dim=1)
            return self._store(scale, torch.zeros_like(scale))
        return self.cover(groups.bounds(W, min(self.group_size, W.shape[1])))

    def cover(self, bounds: groups.Bounds) -> AffineParams:
        """Compute parameters that cover given ranges; a scale is rounded to its stored value before it is used.

        Symmetric: see `scale_rules.covering`. Asymmetric: the range is widened to include 0, so that 0 is exact if zero
        points are whole numbers. A group of zeros gets codes that stand for 0, or the smallest scale if no code does.
        """
        if self.symmetric:
            scale = covering(bounds, self.elements, self.rule)
            return self._store(scale, torch.zeros_like(scale))
        low, high = bounds.low.clamp(max=0), bounds.high.clamp(min=0)
        return self._store((high - low) / (self.elements.high - self.elements.low), -low)

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
        if not self.elements.has_zero:  # a group of zeros then has the smallest numbers there are
            scale = torch.where(scale == 0, torch.full_like(scale, SMALLEST_HALF), scale)
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
        return self.assemble(groups.side_by_side(codes), affine)

    def rounded(self, W: Float[Tensor, "out in"], affine: AffineParams | None = None) -> Float[Tensor, "out in"]:
        """`quantize(W, affine).dequantize()` without building codes; for searches."""
        affine = self.fit(W) if affine is None else self.stored(affine)
        numbers = [
            self.decode(self.encode(part, *parameters), *parameters) for part, parameters in self._by_group(W, affine)
        ]
        return groups.side_by_side(numbers)

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


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight as codes, scales and zero points; `dequantize()` returns the real numbers that they stand for.

    A side branch is part of the weight: `dequantize()`, `rows()` and `stored_bits` include it.
    `replace(weight, side=None)` is the weight of the codes without the branch.

    Attributes:
        codes: int8 or uint8.
        scale: float32, exactly the scales in `parts`.
        zero_point: uint8, or float32 if the grid has real zero points; None if symmetric.
        grid: The grid, which defines the meaning of codes and parts.
        parts: Scales and zero points in their stored form.
        side: Side branch of the weight, in 8 or 16 bits; None for most methods.
    """

    codes: Shaped[Tensor, "out in"]
    scale: Float[Tensor, "rows groups"]
    zero_point: Shaped[Tensor, "rows groups"] | None
    grid: Grid
    parts: Parts
    side: Side | None = None

    @property
    def bits(self) -> int:
        """Bits of one unpacked code."""
        return self.grid.bits

    @property
    def group_size(self) -> int:
        """Inputs that share a scale; `in` for one scale per channel."""
        return min(self.grid.group_size, self.codes.shape[1])

    @property
    def exact_in_bfloat16(self) -> bool:
        """Whether bfloat16 holds `centred()` exactly: whole numbers up to 255 and small floats yes, NF4 no."""
        values = self.centred()
        return torch.equal(values.bfloat16().float(), values)

    def centred(self) -> Float[Tensor, "out in"]:
        """`element(code) − zero_point` in float32; for integers without real zero points, whole numbers."""
        values = self.grid.elements.values(self.codes.float())
        if self.zero_point is None:
            return values
        return values - groups.expand(self.zero_point.float(), self.group_size, values.shape[1])

    def dequantize(self) -> Float[Tensor, "out in"]:
        """`scale · (element(code) − zero_point)` with the side branch applied, in float32."""
        dense = self.centred() * groups.expand(self.scale, self.group_size, self.codes.shape[1])
        return dense if self.side is None else self.side.onto(dense)

    def rows(self, start: int, stop: int) -> QuantizedTensor:
        """Output channels `start` to `stop`.

        Raises:
            ValueError: The scales of a row are stored relative to those of other rows.
        """
        if self.grid.storage.spans_rows:
            raise ValueError(f"cannot split a weight whose scales are stored as {self.grid.storage.name!r} into rows")
        side = None if self.side is None else self.side.rows(start, stop)
        if self.scale.shape[0] == 1 and self.codes.shape[0] > 1:
            return replace(self, codes=self.codes[start:stop], side=side)
        return replace(
            self,
            codes=self.codes[start:stop],
            scale=self.scale[start:stop],
            zero_point=None if self.zero_point is None else self.zero_point[start:stop],
            parts={name: part[start:stop] for name, part in self.parts.items()},
            side=side,
        )

    @property
    def stored_bits(self) -> int:
        """Bits on disk of codes, scales, zero points and side branch; codes are packed densely, row by row."""
        rows, size = self.codes.shape
        octets = rows * self.grid.elements.row_bytes(size) + sum(map(self._part_bytes, self.parts))
        return 8 * octets + (0 if self.side is None else self.side.stored_bits)

    def _part_bytes(self, name: str) -> int:
        part = self.parts[name]
        packing = self.grid.packings.get(name)
        if packing is None:
            return part.numel() * part.element_size()
        return part.shape[0] * packed_bytes(part.shape[1], packing.bits)
