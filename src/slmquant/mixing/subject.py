"""A model whose types are chosen: its sensitivity, and the swaps of a choice, each measured once and then cached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from slmquant.cache.entries import entry_path, get
from slmquant.cache.write import About, put
from slmquant.calib.cached import CachedCalibration
from slmquant.calib.texts import CHOICE_WINDOWS, SWAP_WINDOWS, Texts, draw_texts
from slmquant.mixing.candidates import Types
from slmquant.mixing.choose import Choice, Room, choose, room_for, swapped
from slmquant.mixing.proposals import proposals
from slmquant.mixing.sensitivity import (
    Sensitivity,
    SensitivityJob,
    entry_of,
    fitting_types,
    known_sensitivity,
    measure_sensitivity,
    rounding_of,
)
from slmquant.mixing.swaps import MOST_TRIES, Swaps, Tries
from slmquant.model.discovery.relations import discover
from slmquant.model.sources.load import LoadedModel
from slmquant.model.structure import Relations
from slmquant.progress import Progress
from slmquant.store.record import Budget

_VERSION = 1
"""Raised when swaps are chosen or measured differently, so that older ones are not read."""


@dataclass(frozen=True)
class Subject:
    """A model whose types are chosen.

    Attributes:
        job: How it is measured.
        loaded: The full-precision model.
        relations: Its relations.
        types: Weight → the types that it may get.
        progress: Receives progress updates.
    """

    job: SensitivityJob
    loaded: LoadedModel
    relations: Relations
    types: Types
    progress: Progress

    @cached_property
    def texts(self) -> Texts:
        """The sets of windows.

        Raises:
            DataError: The corpus is too short for all of them.
        """
        calibration = CachedCalibration(self.job.calibration, None, self.loaded, self.job.places.data_dir)
        return draw_texts(calibration, CHOICE_WINDOWS + SWAP_WINDOWS)

    def sensitivity(self) -> Sensitivity:
        """The divergence that each weight causes in each type."""
        if (known := known_sensitivity(self.job)) is not None:
            return known
        _ = self.texts  # refuses a text that is too short
        return measure_sensitivity(
            self.job, self.loaded.model, self.relations, self.types, self._calibration(), self.progress
        )

    def improved(self, choice: Choice, sensitivity: Sensitivity, room: Room, budget: Budget) -> Choice:
        """A choice with the swaps that measurements prefer.

        Args:
            choice: The best mixture by the predictions.
            sensitivity: The predictions.
            room: Bytes of each weight, and how many there may be.
            budget: Decides how many swaps are measured.
        """
        most = MOST_TRIES[budget]
        key = [
            _VERSION,
            entry_of(self.job).name,
            sorted(choice.types.items()),
            room.bytes,
            room.max_seconds,
            room.times,
            most,
        ]
        entry = entry_path(self.job.places.cache_dir, "swaps", key)
        content = get(entry)
        if content is None:
            found = self._measured(choice, sensitivity, room, most)
            put(entry, About(self.job.source, "measured swaps of types"), found.model_dump_json().encode())
        else:
            found = Swaps.model_validate_json(content)
        return replace(swapped(choice, found.types, sensitivity, room), notes=found.notes)

    def _measured(self, choice: Choice, sensitivity: Sensitivity, room: Room, most: int) -> Swaps:
        proposed = proposals(sensitivity, room, choice.types)
        if not proposed:
            return Swaps()
        rounding = rounding_of(self.job.method)
        statistics = self._calibration().statistics(self.relations, rounding.needs) if rounding.needs else {}
        tries = Tries(self.loaded.model, self.relations, rounding, statistics, self.texts, self.job.mode)
        return tries.measure(choice.types, proposed, room, most, self.progress)

    def _calibration(self) -> CachedCalibration:
        job = self.job
        needs = rounding_of(job.method).needs
        return CachedCalibration.of(
            job.source, job.calibration, needs, job.mode.name, "cpu", job.places, self.progress, self.loaded
        )


def choose_types(
    job: SensitivityJob, loaded: LoadedModel, max_bytes: int, budget: Budget, progress: Progress
) -> Choice:
    """Types of every weight for a GGUF file of at most so many bytes.

    Args:
        job: How the model is measured.
        loaded: The full-precision model; it is unchanged afterwards.
        max_bytes: Most bytes of the file.
        budget: Decides how many swaps are measured.
        progress: Receives progress updates.

    Raises:
        RefusedError: No file is as small, one in 16 bits is, or GGUF does not hold the model.
        DataError: The calibration text is too short.
    """
    relations = discover(loaded.model)
    types = fitting_types(loaded.model, relations, job.method)
    room = room_for(job.source, loaded, job.method, types, max_bytes)
    subject = Subject(job, loaded, relations, types, progress)
    found = subject.sensitivity()
    return subject.improved(choose(found, room), found, room, budget)
