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
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from slmquant.boundary import guarded
from slmquant.cache.entries import checked, entry_path, lease
from slmquant.cache.write import About, writing
from slmquant.calib.capture import Captured
from slmquant.calib.statistics import HESSIANS, InputStatistics, Statistic
from slmquant.errors import CacheError
from slmquant.store.record import CalibrationSpec, Phase
from slmquant.versions import STAGES

_VERSION = 10
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
        device: Device it is captured on.
        wanted: The kinds of statistics.
    """

    model_key: str
    corpus_sha256: str
    calibration: CalibrationSpec
    dtype: str
    device: str
    wanted: frozenset[Statistic]

    def path(self, cache_dir: Path) -> Path:
        """The folder of this key's statistics."""
        key = [
            _VERSION, STAGES["calibration"], self.model_key, self.corpus_sha256,
            self.calibration.model_dump(mode="json"), self.dtype, torch.device(self.device).type, sorted(self.wanted),
            torch.__version__, transformers.__version__,
        ]  # fmt: skip
        return entry_path(cache_dir, "statistics", key)

    def about(self, model: str) -> About:
        """What the statistics are, for people."""
        chosen = self.calibration
        text = f"{chosen.corpus} {chosen.num_samples} × {chosen.seq_len}, seed {chosen.seed}"
        return About(model, f"{', '.join(sorted(self.wanted))}; {text}, {self.dtype}")


class _StoredStatistics(Mapping[str, InputStatistics]):
    """Reads an input's statistics from its file at each access; the first time, its checksum is checked.

    The entry stays in the cache for as long as this object exists.
    """

    def __init__(self, entry: Path, names: Collection[str], wanted: Collection[Statistic]) -> None:
        self._entry, self._lease = entry, lease(entry)
        self._files = {name: _file_name(index) for index, name in enumerate(names)}
        self._checked: set[str] = set()
        self._left_out: set[str] = {kind for kind in HESSIANS.values() if kind not in wanted}

    def __getitem__(self, name: str) -> InputStatistics:
        file = self._files[name]
        path = self._entry / file if name in self._checked else checked(self._entry, file)
        self._checked.add(name)
        with _readable(path), safe_open(path, "pt") as opened:
            kept = set(opened.keys()) - self._left_out
            return InputStatistics(**{kind: opened.get_tensor(kind) for kind in kept})

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def save(captured: Captured, entry: Path, about: About, cost: Phase) -> None:
    """Write statistics and the cost of capturing them, whole or not at all."""
    with writing(entry, about) as temporary:
        for index, statistics in enumerate(captured.statistics.values()):
            tensors = {field.name: getattr(statistics, field.name) for field in fields(statistics)}
            present = {
                name: tensor.cpu().contiguous() for name, tensor in tensors.items() if isinstance(tensor, Tensor)
            }
            save_file(present, temporary / _file_name(index))
        facts = {"names": list(captured.statistics), "tokens": captured.tokens}
        (temporary / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        (temporary / _COST).write_text(cost.model_dump_json(), encoding="utf-8")


def _file_name(index: int) -> str:
    return f"{index:04}.safetensors"


def cost(entry: Path) -> Phase:
    """The cost of capturing the statistics of an entry.

    Raises:
        CacheError: The entry is gone or was damaged.
    """
    path = checked(entry, _COST)
    with _readable(path):
        return Phase.model_validate_json(path.read_bytes())


def tokens(entry: Path) -> int:
    """Number of calibration tokens that the statistics of an entry are of.

    Raises:
        CacheError: The entry is gone or was damaged.
    """
    return _facts(entry).tokens


def load(entry: Path, wanted: Collection[Statistic]) -> Captured:
    """Read the `wanted` statistics that `save` wrote; tensors stay on disk until they are accessed.

    Raises:
        CacheError: The entry is gone or was damaged; at an access, also.
    """
    facts = _facts(entry)
    return Captured(_StoredStatistics(entry, facts.names, wanted), facts.tokens)


@dataclass(frozen=True)
class _Facts:
    names: tuple[str, ...]
    tokens: int


def _facts(entry: Path) -> _Facts:
    path = checked(entry, _FACTS)
    with _readable(path):
        facts = json.loads(path.read_text(encoding="utf-8"))
        return _Facts(tuple(facts["names"]), int(facts["tokens"]))


def _readable(path: Path) -> AbstractContextManager[None]:
    return guarded(lambda why: f"cannot read the captured statistics {path} ({why}); run it again", CacheError)
