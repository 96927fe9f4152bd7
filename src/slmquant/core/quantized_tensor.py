"""A quantized weight: codes, scales, zero points, and a side branch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from slmquant.core import groups
from slmquant.core.pack import packed_bytes
from slmquant.core.scales import Parts
from slmquant.core.side import Side

if TYPE_CHECKING:
    from slmquant.core.affine import Grid


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
