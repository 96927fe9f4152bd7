"""What a method may look at: calibration windows, and statistics of the full-precision model over them."""

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
from slmquant.model.discovery.relations import Relations
from slmquant.progress import Progress


class Calibration(Protocol):
    """The data of a cell; nothing is loaded or run before it is asked for."""

    @property
    def windows(self) -> Int[Tensor, "samples seq"]:
        """Token ids."""
        ...

    def statistics(self, relations: Relations, wanted: Collection[Statistic]) -> Statistics:
        """Statistics of the full-precision model as it was loaded; cells that want the same share them."""
        ...


class NoCalibration:
    """For methods and schemes that look at no data: asking it is an error."""

    @property
    def windows(self) -> Int[Tensor, "samples seq"]:
        """There are none.

        Raises:
            DataError: Always.
        """
        raise DataError("this method reads calibration text and was given none; name a calibration corpus")

    def statistics(self, relations: Relations, wanted: Collection[Statistic]) -> Statistics:
        """There are none.

        Raises:
            DataError: Always.
        """
        del relations
        raise DataError(f"this method needs {', '.join(sorted(wanted))} and was given no calibration text; name one")


class FreshCalibration:
    """Windows in hand, and statistics captured from a model whenever they are asked for: nothing is cached.

    Args:
        model: The model in float32.
        windows: Token ids.
        dtype: What its linears multiply in while statistics are captured.
        progress: Who is told how far it is.
    """

    def __init__(
        self, model: PreTrainedModel, windows: Int[Tensor, "samples seq"], dtype: torch.dtype, progress: Progress
    ) -> None:
        self._model, self._windows, self._dtype, self._progress = model, windows, dtype, progress

    @property
    def windows(self) -> Int[Tensor, "samples seq"]:
        """Token ids."""
        return self._windows

    def statistics(self, relations: Relations, wanted: Collection[Statistic]) -> Statistics:
        """Statistics of the model as it is now."""
        with multiplying_in(self._model.base_model, self._dtype):
            return capture(self._model, relations, self._windows, wanted, self._progress).statistics
