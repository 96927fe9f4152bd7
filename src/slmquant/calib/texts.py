"""The disjoint texts of a method that judges its own steps: for rounding, for choosing and learning, and for refusing.

All are windows of one draw from the calibration corpus, so none overlaps another. Those for rounding are the
calibration windows of every other method. Text that judges the result lies in other corpora.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from slmquant.calib.calibration import Calibration

GATE_WINDOWS = 8
CHOICE_WINDOWS = 8
SWAP_WINDOWS = 16


@dataclass(frozen=True)
class Texts:
    """Three disjoint sets of windows of token ids.

    Attributes:
        calibration: What weights are rounded with.
        learning: What types are chosen on and scales are tuned on.
        gate: What decides whether a step is kept.
    """

    calibration: Int[Tensor, "samples seq"]
    learning: Int[Tensor, "more seq"]
    gate: Int[Tensor, "gate seq"]

    @property
    def choice(self) -> Int[Tensor, "choice seq"]:
        """The windows of `learning` that types are chosen on; few, as every type is measured on them."""
        return self.learning[:CHOICE_WINDOWS]

    @property
    def swaps(self) -> Int[Tensor, "swaps seq"]:
        """The windows of `learning` that swaps of chosen types are measured on; none of them chose a type before."""
        return self.learning[CHOICE_WINDOWS : CHOICE_WINDOWS + SWAP_WINDOWS]


def draw_texts(calibration: Calibration, learning: int = CHOICE_WINDOWS) -> Texts:
    """Draw the sets.

    Args:
        calibration: The calibration set; its corpus has further windows.
        learning: Number of windows to learn on.

    Raises:
        DataError: The corpus is too short for all of them.
    """
    gate, more = calibration.further(GATE_WINDOWS + learning).split([GATE_WINDOWS, learning])
    return Texts(calibration.windows, more, gate)
