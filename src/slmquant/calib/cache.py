"""Captured statistics on disk, shared by all cells of a run, each of which is its own process.

They are a folder with one file per input, so that writing and reading need memory for only one more Hessian at a time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slmquant.boundary import guarded
from slmquant.calib.capture import Captured
from slmquant.calib.statistics import HESSIANS, InputStatistics, Statistic
from slmquant.errors import SourceError
from slmquant.files import atomic_dir, cache_path
from slmquant.store.record import CalibrationSpec, Phase
from slmquant.versions import STAGES

_VERSION = 9
_FACTS = "captured.json"
_COST = "cost.json"


@dataclass(frozen=True)
class CaptureKey:
    """Everything that decides the statistics.

    Attributes:
        model_key: Hash of the full-precision model, including its configuration and tokenizer.
        corpus_sha256: Hash of the calibration text.
        calibration: The choice of windows.
        dtype: Compute dtype of the model.
        wanted: The kinds of statistics.
    """

    model_key: str
    corpus_sha256: str
    calibration: CalibrationSpec
    dtype: str
    wanted: frozenset[Statistic]

    def path(self, cache_dir: Path) -> Path:
        """The folder of this key's statistics."""
        key = [
            _VERSION, STAGES["calibration"], self.model_key, self.corpus_sha256,
            self.calibration.model_dump(mode="json"), self.dtype, sorted(self.wanted), torch.__version__,
        ]  # fmt: skip
        return cache_path(cache_dir, "statistics", key)


class _StoredStatistics(Mapping[str, InputStatistics]):
    """Reads an input's statistics from its file at each access."""

    def __init__(self, files: Mapping[str, Path], wanted: Collection[Statistic]) -> None:
        self._files = files
        self._left_out: set[str] = {kind for kind in HESSIANS.values() if kind not in wanted}

    def __getitem__(self, name: str) -> InputStatistics:
        with safe_open(self._files[name], "pt") as file:
            kept = set(file.keys()) - self._left_out
            return InputStatistics(**{kind: file.get_tensor(kind) for kind in kept})

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def save(captured: Captured, folder: Path, cost: Phase) -> None:
    """Write statistics and the cost of capturing them, whole or not at all."""
    with atomic_dir(folder) as temporary:
        for index, statistics in enumerate(captured.statistics.values()):
            tensors = {field.name: getattr(statistics, field.name) for field in fields(statistics)}
            present = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
            save_file(present, temporary / _file_name(index))
        facts = {"names": list(captured.statistics), "tokens": captured.tokens}
        (temporary / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        (temporary / _COST).write_text(cost.model_dump_json(), encoding="utf-8")


def _file_name(index: int) -> str:
    return f"{index:04}.safetensors"


def cost(folder: Path) -> Phase:
    """The cost of capturing the statistics in `folder`.

    Raises:
        SourceError: The folder is damaged; it is safe to delete.
    """
    try:
        return Phase.model_validate_json((folder / _COST).read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(
            f"cannot read the cost of the statistics in {folder} ({error}); delete the folder, it is a cache"
        ) from error


def tokens(folder: Path) -> int:
    """Number of calibration tokens that the statistics in `folder` are of.

    Raises:
        SourceError: The folder is damaged; it is safe to delete.
    """
    with _readable(folder):
        return int(json.loads((folder / _FACTS).read_text(encoding="utf-8"))["tokens"])


def load(folder: Path, wanted: Collection[Statistic]) -> Captured:
    """Read the `wanted` statistics that `save` wrote; tensors stay on disk until they are accessed.

    Raises:
        SourceError: The folder is damaged; it is safe to delete.
    """
    with _readable(folder):
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        files = {name: folder / _file_name(index) for index, name in enumerate(facts["names"])}
        for path in files.values():
            with safe_open(path, "pt"):
                pass
        return Captured(_StoredStatistics(files, wanted), int(facts["tokens"]))


def _readable(folder: Path) -> AbstractContextManager[None]:
    return guarded(
        lambda why: f"cannot read the captured statistics in {folder} ({why}); delete the folder, it is a cache",
        SourceError,
    )
