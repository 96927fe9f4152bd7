"""A weight as it is stored: codes, scales, zero points, and what is kept beside them."""

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
    """A weight as codes, scales and zero points; `dequantize()` gives the real numbers that it stands for.

    A side branch, where there is one, is part of the weight: `dequantize()`, `rows()` and `stored_bits` include it.
    `replace(weight, side=None)` is the codes' own share.

    Attributes:
        codes: int8 or uint8.
        scale: float32, exactly what `parts` say.
        zero_point: uint8, or float32 where the grid has real ones; None where symmetric.
        grid: What codes and parts mean.
        parts: Scales and zero points as they are stored.
        side: What is kept in 16 bits beside the codes; None for most methods.
    """

    codes: Shaped[Tensor, "out in"]
    scale: Float[Tensor, "rows groups"]
    zero_point: Shaped[Tensor, "rows groups"] | None
    grid: Grid
    parts: Parts
    side: Side | None = None

    @property
    def bits(self) -> int:
        """Bits of a code that stands alone."""
        return self.grid.bits

    @property
    def group_size(self) -> int:
        """Inputs that share a scale; `in` where a channel has one scale."""
        return min(self.grid.group_size, self.codes.shape[1])

    @property
    def exact_in_bfloat16(self) -> bool:
        """Whether `centred()` survives bfloat16: whole numbers up to 255 and small floats do, NF4 does not."""
        values = self.centred()
        return torch.equal(values.bfloat16().float(), values)

    def centred(self) -> Float[Tensor, "out in"]:
        """`element(code) − zero_point` in float32; for integers without real zero points, whole numbers."""
        values = self.grid.elements.values(self.codes.float())
        if self.zero_point is None:
            return values
        return values - groups.expand(self.zero_point.float(), self.group_size, values.shape[1])

    def dequantize(self) -> Float[Tensor, "out in"]:
        """`scale · (element(code) − zero_point)`, and the side branch onto it, in float32."""
        dense = self.centred() * groups.expand(self.scale, self.group_size, self.codes.shape[1])
        return dense if self.side is None else self.side.onto(dense)

    def rows(self, start: int, stop: int) -> QuantizedTensor:
        """Output channels `start` to `stop`.

        Raises:
            ValueError: Its scales are stored relative to those of other rows.
        """
        if self.grid.storage.spans_rows:
            raise ValueError(f"scales stored as {self.grid.storage.name!r} belong to a whole weight, not to its rows")
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
