"""The cached states of the full-precision model, which divergences compare with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from slmquant import tasks
from slmquant.errors import SlmquantError
from slmquant.model.computing.modes import MODES
from slmquant.model.sources.load import read_settings
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.store.record import CellSpec
from slmquant.tasks.common.contract import ReferenceKey


def has_reference_states(spec: CellSpec, places: Places, progress: Progress) -> bool:
    """Whether all states that the cells of a reference compare with are cached; loads no weights."""
    try:
        key = replace(_key(spec, places), progress=progress)
        return all(tasks.has_reference(key, task) for task in spec.tasks)
    except SlmquantError:
        return False  # the reference's row will say what is wrong


def reference_states(spec: CellSpec, places: Places) -> tuple[Path, ...]:
    """Paths of the states that are cached."""
    try:
        key = _key(spec, places)
        paths = [tasks.reference_path(key, task) for task in spec.tasks]
    except SlmquantError:
        return ()
    return tuple(path for path in paths if path is not None and path.exists())


def _key(spec: CellSpec, places: Places) -> ReferenceKey:
    settings = read_settings(spec.model)
    return ReferenceKey(
        model_sha256=spec.model_key,
        mode=MODES[spec.compute_dtype],
        device=torch.device(spec.device),
        config=settings.config,
        tokenizer=settings.tokenizer,
        cache_dir=places.cache_dir,
        data_dir=places.data_dir,
    )
