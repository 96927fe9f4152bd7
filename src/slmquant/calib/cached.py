"""Statistics that cells share through the cache, and the calibration of one cell that reads them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from slmquant.cache.entries import is_sound
from slmquant.calib import stored
from slmquant.calib.capture import capture
from slmquant.calib.corpora import Corpus, load_corpus
from slmquant.calib.statistics import Statistic, Statistics
from slmquant.calib.windows import calibration_windows
from slmquant.errors import DataError
from slmquant.machine.environment import usable_cores
from slmquant.machine.phases import Meter
from slmquant.model.compatibility.context import fitting
from slmquant.model.computing.linear import multiply_in_, multiplying_in
from slmquant.model.computing.modes import MODES, attending_in
from slmquant.model.discovery.relations import discover
from slmquant.model.sources.identity import key_of
from slmquant.model.sources.load import LoadedModel, load, unmap_
from slmquant.model.sources.resolve import public_name
from slmquant.model.structure import Relations
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.store.record import CalibrationSpec, ComputeDtype, DataCard, Phase


@dataclass(frozen=True)
class CaptureJob:
    """Statistics to capture of one model on one calibration set, for all cells that need exactly these."""

    model: str
    calibration: CalibrationSpec
    wanted: frozenset[Statistic]
    dtype: ComputeDtype
    device: str
    places: Places


@dataclass(frozen=True)
class CapturedFile:
    """Captured statistics on disk, and the data they were captured on."""

    path: Path
    card: DataCard


@dataclass(frozen=True)
class CalibrationBill:
    """What the calibration of a cell used and cost.

    Attributes:
        tokens: Calibration tokens that were read; None if none were.
        data: The text they come from.
        phase: The capture of statistics, shared with other cells; None if the cell needs no statistics.
    """

    tokens: int | None = None
    data: tuple[DataCard, ...] = ()
    phase: Phase | None = None


def run_capture(job: CaptureJob, progress: Progress, loaded: LoadedModel | None = None) -> CapturedFile:
    """Capture statistics into the cache, unless they are cached already.

    Args:
        job: Which statistics.
        progress: Receives progress updates.
        loaded: The model in float32 if it is loaded already, which is left as it is; None to load it.

    Raises:
        DataError: The corpus is absent or too short.
        NumericalError: An activation was not finite.
    """
    torch.set_num_threads(usable_cores())
    corpus = load_corpus(job.calibration.corpus, job.places.data_dir, progress)
    key = stored.CaptureKey(key_of(job.model), corpus.card.sha256, job.calibration, job.dtype, job.device, job.wanted)
    path = key.path(job.places.cache_dir)
    if is_sound(path):
        return CapturedFile(path, corpus.card)
    given, loaded = loaded, loaded or load(job.model, device=job.device)
    windows = _windows(loaded, corpus, job.calibration)
    relations = discover(loaded.model)
    mode = MODES[job.dtype]
    if given is None:
        multiply_in_(loaded.model, mode.linears)
        unmap_(loaded.model)
    meter = Meter(job.device)
    left_as_it_is = nullcontext() if given is None else multiplying_in(loaded.model.base_model, mode.linears)
    with left_as_it_is, attending_in(mode.attention), meter.phase("capture"):
        captured = capture(loaded.model, relations, windows, job.wanted, progress)
    stored.save(captured, path, key.about(public_name(job.model)), meter.phases[0].model_copy(update={"shared": True}))
    return CapturedFile(path, corpus.card)


class CachedCalibration:
    """The calibration of one cell: windows, and statistics shared with other cells, each loaded when needed.

    Args:
        spec: Which windows of which text; None if the cell uses no data.
        captured: Statistics captured for several cells; None if this one needs none.
        loaded: The model, whose tokenizer and context length the windows follow.
        data_dir: Local folder of data, tried first.
    """

    def __init__(
        self,
        spec: CalibrationSpec | None,
        captured: CapturedFile | None,
        loaded: LoadedModel,
        data_dir: Path | None,
    ) -> None:
        self._spec, self._captured, self._loaded, self._data_dir = spec, captured, loaded, data_dir

    @classmethod
    def of(
        cls,
        source: str,
        spec: CalibrationSpec,
        needs: frozenset[Statistic],
        dtype: ComputeDtype,
        device: str,
        places: Places,
        progress: Progress,
        loaded: LoadedModel,
    ) -> CachedCalibration:
        """A calibration set with the statistics that are needed, captured now unless the cache has them.

        Args:
            source: The model, as the user named it.
            spec: Which windows of which text.
            needs: The statistics; empty for none.
            dtype: What products are computed in meanwhile.
            device: Device to compute on.
            places: Where data and cache are.
            progress: Receives progress updates.
            loaded: The model in float32, which is left as it is.

        Raises:
            DataError: The corpus is absent or too short.
            NumericalError: An activation was not finite.
        """
        captured = None
        if needs:
            captured = run_capture(CaptureJob(source, spec, needs, dtype, device, places), progress, loaded)
        return cls(spec, captured, loaded, places.data_dir)

    @cached_property
    def _read(self) -> tuple[Tensor, DataCard]:
        """The windows and the text they come from."""
        if self._spec is None:
            raise DataError("the method reads calibration text, and the cell was given none; name a corpus")
        corpus = load_corpus(self._spec.corpus, self._data_dir)
        return _windows(self._loaded, corpus, self._spec), corpus.card

    @property
    def windows(self) -> Tensor:
        """Token ids, `(samples, seq)`."""
        return self._read[0]

    def further(self, count: int) -> Tensor:
        """`count` more windows of the same text, `(count, seq)`.

        Raises:
            DataError: The text is too short.
        """
        if self._spec is None:
            raise DataError("the method reads calibration text, and the cell was given none; name a corpus")
        corpus = load_corpus(self._spec.corpus, self._data_dir)
        samples = self._spec.num_samples
        try:
            drawn = _windows(self._loaded, corpus, self._spec.model_copy(update={"num_samples": samples + count}))
        except DataError as error:
            raise DataError(
                f"{error} (the method learns from and judges itself on {count} of them beside the {samples} of "
                "calibration)"
            ) from None
        return drawn[samples:]

    def bill(self, reads_text: bool) -> CalibrationBill:
        """What the cell used and cost, if `reads_text` says that its method looks at calibration text at all."""
        if not reads_text or self._spec is None:
            return CalibrationBill()
        if self._captured is not None:
            path, card = self._captured.path, self._captured.card
            return CalibrationBill(stored.tokens(path), (card,), stored.cost(path))
        windows, card = self._read
        return CalibrationBill(windows.numel(), (card,))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks for the row: windows that are shorter than asked for."""
        if self._spec is None:
            return ()
        length = fitting(self._spec.seq_len, self._loaded.model.config)
        if length == self._spec.seq_len:
            return ()
        return (f"calibrated on windows of {length} tokens instead of {self._spec.seq_len}: the model takes no more",)

    def statistics(self, relations: Relations, wanted: Collection[Statistic]) -> Statistics:
        """The `wanted` statistics, as they were captured for several cells."""
        del relations  # the file was captured with the same relations
        if self._captured is None:
            raise DataError(f"the method needs {', '.join(sorted(wanted))}, and the cell was given no statistics")
        return stored.load(self._captured.path, wanted).statistics


def _windows(loaded: LoadedModel, corpus: Corpus, spec: CalibrationSpec) -> Tensor:
    """The calibration windows of `spec`, shortened to the model's context if need be."""
    length = fitting(spec.seq_len, loaded.model.config)
    return calibration_windows(loaded.tokenizer, corpus, spec.num_samples, length, spec.seed)
