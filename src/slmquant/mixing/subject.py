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
from slmquant.mixing.decode_costs import numbers_read
from slmquant.mixing.front import Speed, front, timed
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
from slmquant.model.running.trial import stored_weight
from slmquant.model.sources.load import LoadedModel
from slmquant.model.structure import Relations
from slmquant.progress import Progress

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

    def chosen(self, max_bytes: int, speed: Speed | None = None) -> Choice:
        """Types of every weight for a GGUF file of at most so many bytes.

        Args:
            max_bytes: Most bytes of the file.
            speed: How fast the file has to decode, by what types cost; None if that does not matter. The result then
                has those costs, and the front of bytes, speed and divergence.

        Raises:
            RefusedError: No file is as small, one in 16 bits is, or GGUF does not hold the model.
            DataError: The calibration text is too short.
        """
        room = room_for(self.job.source, self.loaded, self.job.method, self.types, max_bytes)
        _ = self.texts  # refuses a text that is too short
        costs = None
        if speed is not None:
            costs = speed.measure()
            elements = {name: stored_weight(self.loaded.model, name).numel() for name in self.types}
            room = timed(room, numbers_read(elements, self.relations), costs, speed.least)
        found = self.sensitivity()
        choice = self.improved(choose(found, room), found, room)
        return choice if costs is None else replace(choice, costs=costs, front=front(found.losses, room))

    def improved(self, choice: Choice, sensitivity: Sensitivity, room: Room) -> Choice:
        """A choice with the swaps that measurements prefer; as it is, if the budget measures none.

        Args:
            choice: The best mixture by the predictions.
            sensitivity: The predictions.
            room: Bytes of each weight, and how many there may be.
        """
        if not (most := MOST_TRIES[self.job.budget]):
            return choice
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


def subject_of(job: SensitivityJob, loaded: LoadedModel, progress: Progress) -> Subject:
    """A loaded model with the types that its weights may get.

    Raises:
        RefusedError: No type fits a weight, or the method does not round weight by weight.
    """
    relations = discover(loaded.model)
    types = fitting_types(loaded.model, relations, job.method, job.budget)
    return Subject(job, loaded, relations, types, progress)
