"""Whether a weight already lies on a quantization grid, and on which: such a weight flatters methods that use the grid.

Blocks of a weight are compared with blocks of the same numbers in random order, which have the same distribution and
dtype and share no scale. Three traces are looked for, in this order:

- every block lies on a grid to within the rounding of its dtype (`exactly`);
- ratios of neighbouring weights repeat in many rows (`moved`): a grid whose rows and columns were multiplied by
  factors. The columns' factors are found from these ratios and undone, and the grid below them is named;
- blocks fit better to a grid than shuffled ones (`nearly`): codes that were trained, averaged or scaled a little after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.lattice import Fits, best_fits, column_factors, repeated_ratios
from slmquant.core.superblocks import SUPER_BLOCK
from slmquant.inspection.grid_names import Layout, name_of
from slmquant.store.inspected import Lattice, OnGrid

__all__ = ["lattice_of"]

_LENGTHS = (16, 32, 64, 128, 256)
"""Blocks that are tried, beside whole rows; a grid of longer blocks shows in the shortest, too."""
_CONTRASTED = (16, 32)
"""Blocks that are compared with shuffled numbers; the length that shows more counts."""
_BLOCKS, _NUMBERS = 160, 8192
"""Most blocks that are drawn from a weight, and about how many numbers if blocks are long."""
_FEWEST, _SUPER_BLOCKS = 32, 32
"""Fewest blocks that are drawn, however long; super-blocks whose steps are compared."""
_PAIRS, _PLACES, _ROWS, _RESTORED = 16, 6, 1024, 64
"""Most pairs of columns, blocks of columns, and rows of them, whose ratios are looked at; rows that are restored."""
_ENTIRE = 0.99
"""Share of blocks that must lie on a grid."""
_ROUGH = 0.25
"""Rounding of the dtype, in steps, beyond which nothing is called exact."""
_SLACK = 1e-5
"""Distance from a grid, in steps, that is none."""
_LEAST_Z, _LEAST_GAIN, _LEAST_REPEATS = 8.0, 0.03, 0.004
"""What is above these is no chance: standard errors, gain of the fit, share of rows with a repeated ratio."""
_BITS = range(2, 9)
"""Bits that codes may have."""
_NEAR, _RARE = 0.9, 0.001
"""Share of the best fit that fewer bits must keep; share of numbers below which a code is an error."""
_ON_ZERO, _WHOLE = 0.7, 0.01
"""Mean cosine of the distance of 0 from which it is on the grids; distance from a whole multiple that is none."""
_MOST, _ULPS_LEFT = 0.5, 8
"""Share of blocks that must lie on a grid once factors are undone; their rounding over that of the dtype."""
_ROWS_OF_A_CODE = 6
"""Rows for each code that a grid may have, from which columns' factors are told apart from ratios of other codes."""
_SMALLEST_ERROR = 1e-3
"""Standard errors are taken to be at least this: a few equal figures do not make a difference certain."""
_SEED = 20251129


class _Contrast(NamedTuple):
    """The mean of some figures, that of shuffled weights, and their difference in its standard errors."""

    found: float
    shuffled: float
    z: float


@dataclass(frozen=True)
class _Looked:
    """A weight that is looked at.

    Attributes:
        W: The weight in float32.
        eps: Machine epsilon of the dtype that holds its numbers exactly.
        generator: Draws blocks.
    """

    W: Float[Tensor, "out in"]
    eps: float
    generator: torch.Generator

    @property
    def lengths(self) -> list[int]:
        """Blocks to try, longest first."""
        columns = self.W.shape[1]
        return sorted({columns, *(length for length in _LENGTHS if length <= columns)}, reverse=True)

    def blocks(self, length: int) -> Float[Tensor, "blocks length"]:
        """Random blocks that begin where blocks of that length do; none of equal numbers."""
        whole = self.W[:, : self.W.shape[1] // length * length].unflatten(1, (-1, length))
        count = min(_BLOCKS, max(_FEWEST, _NUMBERS // length))
        rows = self._draw(whole.shape[0], count)
        return _varied(whole[rows, self._draw(whole.shape[1], count)])

    def restored(self, length: int) -> Iterator[Float[Tensor, "blocks length"]]:
        """Some rows of a few columns, with the columns' factors undone as far as ratios tell them; then of others."""
        starts = torch.arange(0, self.W.shape[1] - length + 1, length)
        starts = starts[torch.randperm(len(starts), generator=self.generator)[:_PLACES]]
        rows = torch.randperm(self.W.shape[0], generator=self.generator)[: 2 * _ROWS]
        for start in starts.tolist():
            block = self.W[rows, start : start + length]
            yield _varied((block / column_factors(block, self.eps))[:_RESTORED])

    def shuffled(self, length: int) -> Float[Tensor, "blocks length"]:
        """Blocks of random numbers of the weight."""
        places = self._draw(self.W.numel(), _BLOCKS * length)
        return _varied(self.W.reshape(-1)[places].view(_BLOCKS, length))

    def fits(self, length: int) -> _Contrast:
        """How well blocks fit to grids."""
        blocks = self.blocks(length)
        fit = best_fits(torch.cat((blocks, self.shuffled(length)))).fit
        return _contrast(fit[: len(blocks)], fit[len(blocks) :])

    def ratios(self, apart: int, block: int) -> _Contrast:
        """How often ratios repeat of columns so far apart, the first of which begins a block."""
        starts = torch.arange(0, self.W.shape[1] - apart, block)
        starts = starts[torch.randperm(len(starts), generator=self.generator)[:_PAIRS]]
        rows = torch.randperm(self.W.shape[0], generator=self.generator)[:_ROWS]
        chosen = self.W[rows]
        a, b = chosen[:, starts].T, chosen[:, starts + apart].T
        mixed = b[:, torch.randperm(b.shape[1], generator=self.generator)]
        return _contrast(repeated_ratios(a, b, self.eps), repeated_ratios(a, mixed, self.eps))

    def rounding(self, blocks: Float[Tensor, "blocks size"], fits: Fits) -> Float[Tensor, " blocks"]:
        """How far the rounding of the dtype may move numbers, in steps of each block's grid."""
        return 2 * self.eps * blocks.abs().amax(dim=1) / _step(blocks, fits)

    def _draw(self, limit: int, count: int) -> Tensor:
        return torch.randint(limit, (count,), generator=self.generator)


def lattice_of(W: Float[Tensor, "out in"], eps: float) -> Lattice | None:
    """Look for a grid under a weight; None if its rows are too short, or its blocks constant.

    Args:
        W: The weight in float32.
        eps: Machine epsilon of the dtype that holds its numbers exactly.
    """
    looked, shortest = _Looked(W, eps, torch.Generator().manual_seed(_SEED)), _LENGTHS[0]
    if W.shape[1] < shortest or not len(blocks := looked.blocks(shortest)):
        return None
    plain = max((looked.fits(length) for length in _CONTRASTED if length <= W.shape[1]), key=lambda one: one.z)
    ratios = looked.ratios(1, shortest)
    found = Lattice(
        on_grid="no",
        fit=plain.found,
        fit_shuffled=plain.shuffled,
        z=plain.z,
        ties=ratios.found,
        ties_shuffled=ratios.shuffled,
    )
    if _exact(looked, blocks, best_fits(blocks)):
        return _with(found, "exactly", _layout(looked, None))
    if ratios.z > _LEAST_Z and ratios.found > max(_LEAST_REPEATS, 2 * ratios.shuffled):
        length = _length_below(looked, ratios.found)
        moved = _with(found, "moved", None if length is None else _layout_below(looked, length))
        return moved.model_copy(update={"block": length})
    if plain.z > _LEAST_Z and plain.found - plain.shuffled > _LEAST_GAIN:
        return _with(found, "nearly", _layout(looked, (plain.found + plain.shuffled) / 2))
    return found


def _layout(looked: _Looked, least: float | None) -> Layout | None:
    """The layout of the longest blocks that lie on grids; with `least`, whose mean fit is larger than that."""
    for length in looked.lengths:
        blocks = looked.blocks(length)
        if not len(blocks):
            continue
        fits = best_fits(blocks)
        mean = float(fits.fit.mean())
        if least is None and _exact(looked, blocks, fits):
            layout = _described(looked, blocks, fits, _is_nested(looked, length))
            return _finer(looked, layout) if length == SUPER_BLOCK else layout
        if least is not None and mean > least:
            fewest = next(f for bits in _BITS if (f := best_fits(blocks, 2**bits - 1)).fit.mean() > _NEAR * mean)
            return _described(looked, blocks, fewest, nested=False)
    return None


def _finer(looked: _Looked, layout: Layout) -> Layout:
    """The layout of short blocks if those of a super-block are on one grid: products of few scales and few codes are.

    That takes short blocks of far fewer bits, whose steps are multiples of one number.
    """
    blocks = looked.blocks(_LENGTHS[0])
    finer = _described(looked, blocks, best_fits(blocks), _is_nested(looked, _LENGTHS[0]))
    return finer if finer.nested and finer.bits + 2 <= layout.bits else layout


def _length_below(looked: _Looked, repeated: float) -> int | None:
    """Inputs that share a scale in a grid whose rows and columns were multiplied by factors.

    Args:
        looked: The weight.
        repeated: How often ratios of columns side by side repeat; those of a block's ends repeat about as often.
    """
    for length in looked.lengths:
        ratios = looked.ratios(length - 1, length)
        if ratios.found > max(repeated / 4, 4 * ratios.shuffled):
            return length
    return None


def _layout_below(looked: _Looked, length: int) -> Layout | None:
    """The layout of such a grid, if two blocks of columns show the same, and rows are many enough for so many codes."""
    seen = set[str]()
    for blocks in looked.restored(length):
        fits = best_fits(blocks)
        entire = fits.miss <= _ULPS_LEFT * looked.rounding(blocks, fits) + _SLACK
        if entire.float().mean() < _MOST:
            continue
        layout = _described(looked, blocks[entire], Fits(*(values[entire] for values in fits)), nested=False)
        if looked.W.shape[0] < _ROWS_OF_A_CODE << layout.bits:
            continue
        if name_of(layout) in seen:  # a wrong factor of a column adds codes, and seldom the same twice
            return layout
        seen.add(name_of(layout))
    return None


def _described(looked: _Looked, blocks: Float[Tensor, "blocks length"], fits: Fits, nested: bool) -> Layout:
    """The layout that some blocks show; codes of less than a thousandth of the numbers are taken for errors."""
    step = _step(blocks, fits)
    of_zero = (2 * torch.pi * blocks.amin(dim=1) / step).cos().mean()
    codes, counts = (blocks / step[:, None]).round().long().unique(return_counts=True)
    seen = codes[counts > _RARE * counts.sum()] if of_zero > _ON_ZERO else codes[:0]
    length = blocks.shape[1]
    return Layout(
        block=length,
        whole_row=length == looked.W.shape[1],
        steps=int(fits.steps.max()),
        codes=frozenset(seen.tolist()),
        nested=nested,
    )


def _is_nested(looked: _Looked, length: int) -> bool:
    """Whether the steps of 256 inputs are whole multiples of one number, as in GGUF's super-blocks."""
    columns = looked.W.shape[1]
    if columns % SUPER_BLOCK or length not in (16, 32):
        return False
    blocks = looked.blocks(SUPER_BLOCK)[:_SUPER_BLOCKS]
    parts = blocks.unflatten(1, (-1, length)).flatten(0, 1)
    steps = _step(parts, best_fits(parts)).view(len(blocks), -1)
    ladder = torch.cat((steps.new_zeros(len(blocks), 1), steps), dim=1)
    return bool((best_fits(ladder).miss < _WHOLE).float().mean() >= _ENTIRE)


def _exact(looked: _Looked, blocks: Float[Tensor, "blocks size"], fits: Fits) -> bool:
    """Whether nearly all blocks lie on their grids, to within the rounding of the dtype."""
    rounding = looked.rounding(blocks, fits)
    return bool(((fits.miss <= rounding + _SLACK) & (rounding <= _ROUGH)).float().mean() >= _ENTIRE)


def _step(blocks: Float[Tensor, "blocks size"], fits: Fits) -> Float[Tensor, " blocks"]:
    low, high = blocks.aminmax(dim=1)
    return (high - low) / fits.steps


def _varied(blocks: Float[Tensor, "blocks size"]) -> Float[Tensor, "some size"]:
    """The blocks whose numbers are not all equal."""
    low, high = blocks.aminmax(dim=1)
    return blocks[high > low]


def _contrast(found: Float[Tensor, " a"], shuffled: Float[Tensor, " b"]) -> _Contrast:
    if min(len(found), len(shuffled)) < 2:
        return _Contrast(float(found.mean()), float((shuffled if len(shuffled) else found).mean()), 0.0)
    error = (found.var() / len(found) + shuffled.var() / len(shuffled)).sqrt()
    gain = float(found.mean() - shuffled.mean())
    return _Contrast(float(found.mean()), float(shuffled.mean()), gain / max(float(error), _SMALLEST_ERROR))


def _with(found: Lattice, on_grid: OnGrid, layout: Layout | None) -> Lattice:
    if layout is None:
        return found.model_copy(update={"on_grid": on_grid})
    described = {"type": name_of(layout), "block": layout.block, "levels": layout.steps + 1}
    return found.model_copy(update={"on_grid": on_grid, **described})
