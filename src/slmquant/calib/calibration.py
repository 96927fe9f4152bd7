"""Calibration of one cell: windows, and statistics of the full-precision model on them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.calib.capture import capture
from slmquant.calib.statistics import Statistic, Statistics
from slmquant.errors import DataError
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.structure import Relations
from slmquant.progress import Progress


class Calibration(Protocol):
    """The calibration data of a cell, loaded and computed on first use."""

    @property
    def windows(self) -> Int[Tensor, "samples seq"]:
        """Token ids."""
        ...

    def further(self, count: int) -> Int[Tensor, "count seq"]:
        """`count` more windows of the same text; none overlaps another or one of `windows`.

        Raises:
            DataError: The text is too short.
        """
        ...

    def statistics(self, relations: Relations, wanted: Collection[Statistic]) -> Statistics:
        """Statistics of the full-precision model as it was loaded; cells with the same needs share them."""
        ...


class NoCalibration:
    """For methods and schemes that use no data; reading it is an error."""

    @property
    def windows(self) -> Int[Tensor, "samples seq"]:
        """Raise an error: there is no calibration data.

        Raises:
            DataError: Always.
        """
        raise DataError("this method reads calibration text and was given none; name a calibration corpus")

    def further(self, count: int) -> Int[Tensor, "count seq"]:
        """Raise an error: there is no calibration data.

        Raises:
            DataError: Always.
        """
        del count
        return self.windows

    def statistics(self, relations: Relations, wanted: Collection[Statistic]) -> Statistics:
        """Raise an error: there is no calibration data.

        Raises:
            DataError: Always.
        """
        del relations
        raise DataError(f"this method needs {', '.join(sorted(wanted))} and was given no calibration text; name one")


class FreshCalibration:
    """Given windows, and statistics captured from a model at each request, without a cache.

    Args:
        model: The model in float32.
        windows: Token ids.
        dtype: Dtype in which its linears multiply while statistics are captured.
        progress: Receives progress updates.
        more: Token ids of windows that no statistic is taken from.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        windows: Int[Tensor, "samples seq"],
        dtype: torch.dtype,
        progress: Progress,
        more: Int[Tensor, "more seq"] | None = None,
    ) -> None:
        self._model, self._windows, self._dtype, self._progress = model, windows, dtype, progress
        self._more = windows[:0] if more is None else more

    @property
    def windows(self) -> Int[Tensor, "samples seq"]:
        """Token ids."""
        return self._windows

    def further(self, count: int) -> Int[Tensor, "count seq"]:
        """The first of the windows that no statistic is taken from.

        Raises:
            DataError: There are fewer.
        """
        if len(self._more) < count:
            raise DataError(f"{count} windows are needed beside those of calibration, and there are {len(self._more)}")
        return self._more[:count]

    def statistics(self, relations: Relations, wanted: Collection[Statistic]) -> Statistics:
        """Statistics of the model as it is now."""
        with multiplying_in(self._model.base_model, self._dtype):
            return capture(self._model, relations, self._windows, wanted, self._progress).statistics
