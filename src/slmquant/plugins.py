"""Everything that authors of plug-ins import; see `docs/add-a-method.md` and the pages for the other kinds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmquant.artifact import Artifact as Artifact
    from slmquant.boundary import guarded as guarded
    from slmquant.core.affine import Grid as Grid
    from slmquant.core.affine import QuantizedTensor as QuantizedTensor
    from slmquant.engines.common.contract import Engine as Engine
    from slmquant.engines.common.contract import EngineStatus as EngineStatus
    from slmquant.engines.common.contract import OpenOptions as OpenOptions
    from slmquant.engines.common.contract import Session as Session
    from slmquant.errors import DataError as DataError
    from slmquant.errors import ModelError as ModelError
    from slmquant.errors import RefusedError as RefusedError
    from slmquant.files import atomic_dir as atomic_dir
    from slmquant.files import atomic_file as atomic_file
    from slmquant.formats.common.checkpoint_folder import Checkpoint as Checkpoint
    from slmquant.formats.common.checkpoint_folder import Layout as Layout
    from slmquant.formats.common.contract import Format as Format
    from slmquant.formats.common.contract import Placement as Placement
    from slmquant.formats.common.contract import Written as Written
    from slmquant.formats.common.contract import settle as settle
    from slmquant.formats.common.entries import describe as describe
    from slmquant.formats.common.entries import entries as entries
    from slmquant.formats.common.entries import run_time_refusal as run_time_refusal
    from slmquant.formats.common.writing import BaseFormat as BaseFormat
    from slmquant.formats.common.writing import Laid as Laid
    from slmquant.methods.common.parts import BlockSolver as BlockSolver
    from slmquant.methods.common.parts import Correction as Correction
    from slmquant.methods.common.parts import Rounding as Rounding
    from slmquant.methods.common.parts import Transform as Transform
    from slmquant.methods.common.recipe import Recipe as Recipe
    from slmquant.methods.common.work import Work as Work
    from slmquant.model.computing.quantized_model import QuantizedModel as QuantizedModel
    from slmquant.principles.common.contract import Prediction as Prediction
    from slmquant.principles.common.contract import Principle as Principle
    from slmquant.principles.common.decisions import Candidates as Candidates
    from slmquant.principles.common.decisions import Decision as Decision
    from slmquant.principles.common.windows import change as change
    from slmquant.principles.common.windows import compared as compared
    from slmquant.principles.common.windows import interaction as interaction
    from slmquant.principles.common.windows import level as level
    from slmquant.store.record import DataCard as DataCard
    from slmquant.store.record import ItemOutcome as ItemOutcome
    from slmquant.store.record import Metric as Metric
    from slmquant.store.record import TaskSpec as TaskSpec
    from slmquant.tasks.common.contract import EvalContext as EvalContext
    from slmquant.tasks.common.contract import Task as Task
    from slmquant.tasks.common.contract import TaskResult as TaskResult

_HOMES = {
    "Artifact": "slmquant.artifact",
    "BaseFormat": "slmquant.formats.common.writing",
    "BlockSolver": "slmquant.methods.common.parts",
    "Candidates": "slmquant.principles.common.decisions",
    "Checkpoint": "slmquant.formats.common.checkpoint_folder",
    "Correction": "slmquant.methods.common.parts",
    "DataCard": "slmquant.store.record",
    "DataError": "slmquant.errors",
    "Decision": "slmquant.principles.common.decisions",
    "Engine": "slmquant.engines.common.contract",
    "EngineStatus": "slmquant.engines.common.contract",
    "EvalContext": "slmquant.tasks.common.contract",
    "Format": "slmquant.formats.common.contract",
    "Grid": "slmquant.core.affine",
    "ItemOutcome": "slmquant.store.record",
    "Laid": "slmquant.formats.common.writing",
    "Layout": "slmquant.formats.common.checkpoint_folder",
    "Metric": "slmquant.store.record",
    "ModelError": "slmquant.errors",
    "OpenOptions": "slmquant.engines.common.contract",
    "Placement": "slmquant.formats.common.contract",
    "Prediction": "slmquant.principles.common.contract",
    "Principle": "slmquant.principles.common.contract",
    "QuantizedModel": "slmquant.model.computing.quantized_model",
    "QuantizedTensor": "slmquant.core.affine",
    "Recipe": "slmquant.methods.common.recipe",
    "RefusedError": "slmquant.errors",
    "Rounding": "slmquant.methods.common.parts",
    "Session": "slmquant.engines.common.contract",
    "Task": "slmquant.tasks.common.contract",
    "TaskResult": "slmquant.tasks.common.contract",
    "TaskSpec": "slmquant.store.record",
    "Transform": "slmquant.methods.common.parts",
    "Work": "slmquant.methods.common.work",
    "Written": "slmquant.formats.common.contract",
    "atomic_dir": "slmquant.files",
    "atomic_file": "slmquant.files",
    "change": "slmquant.principles.common.windows",
    "compared": "slmquant.principles.common.windows",
    "describe": "slmquant.formats.common.entries",
    "entries": "slmquant.formats.common.entries",
    "guarded": "slmquant.boundary",
    "interaction": "slmquant.principles.common.windows",
    "level": "slmquant.principles.common.windows",
    "run_time_refusal": "slmquant.formats.common.entries",
    "settle": "slmquant.formats.common.contract",
}
"""Public name → its module; imported on first use, so that a plug-in loads only what it uses."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'slmquant.plugins' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
