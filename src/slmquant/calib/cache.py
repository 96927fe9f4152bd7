"""Captured statistics on disk, so that every cell of a run, each in its own process, starts from the same ones.

Tensors are read through a memory map when a method asks for them, one group at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from slmquant.calib.capture import Captured
from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.errors import SourceError
from slmquant.files import atomic_file
from slmquant.store.record import CalibrationSpec

_VERSION = 5


@dataclass(frozen=True)
class CaptureKey:
    """Everything that decides the statistics.

    Attributes:
        model_sha256: Fingerprint of the full-precision weights.
        corpus_sha256: Checksum of the calibration text.
        calibration: Which windows of it.
        dtype: What the model ran in.
        wanted: Which statistics.
    """

    model_sha256: str
    corpus_sha256: str
    calibration: CalibrationSpec
    dtype: str
    wanted: frozenset[Statistic]

    def path(self, cache_dir: Path) -> Path:
        """Where statistics of this key are kept."""
        parts = [
            _VERSION, self.model_sha256, self.corpus_sha256, self.calibration.model_dump(mode="json"), self.dtype,
            sorted(self.wanted), torch.__version__,
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
        return cache_dir / "statistics" / f"{digest}.safetensors"


class _StoredStatistics(Mapping[str, InputStatistics]):
    """Reads a group's statistics from the file whenever they are asked for."""

    def __init__(self, path: Path, names: Collection[str], with_hessian: bool) -> None:
        self._path, self._names, self._with_hessian = path, list(names), with_hessian

    def __getitem__(self, name: str) -> InputStatistics:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, "pt") as file:
            H = file.get_tensor(f"{name}.hessian") if self._with_hessian else None
            first = file.get_tensor(f"{name}.first") if f"{name}.first" in file.keys() else None  # noqa: SIM118  # no mapping
            absmax, absmean, rms = (file.get_tensor(f"{name}.{kind}") for kind in ("absmax", "absmean", "rms"))
            return InputStatistics(absmax, absmean, rms, H, first)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def save(captured: Captured, path: Path) -> None:
    """Write statistics and their costs, atomically."""
    tensors = {}
    for name, statistics in captured.statistics.items():
        tensors[f"{name}.absmax"] = statistics.absmax.cpu().contiguous()
        tensors[f"{name}.absmean"] = statistics.absmean.cpu().contiguous()
        tensors[f"{name}.rms"] = statistics.rms.cpu().contiguous()
        if statistics.hessian is not None:
            tensors[f"{name}.hessian"] = statistics.hessian.cpu().contiguous()
        if statistics.first is not None:
            tensors[f"{name}.first"] = statistics.first.cpu().contiguous()
    facts = {
        "names": list(captured.statistics),
        "tokens": captured.tokens,
        "forward_s": captured.forward_s,
        "statistic_s": captured.statistic_s,
        "peak_rss_bytes": captured.peak_rss_bytes,
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"slmquant": json.dumps(facts)})


def load(path: Path, wanted: Collection[Statistic]) -> Captured:
    """Read what `save` wrote, as far as it is `wanted`; tensors stay on disk until they are asked for.

    Raises:
        SourceError: The file is damaged; it is safe to delete.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["slmquant"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise SourceError(
            f"captured statistics in {path} cannot be read ({error}); delete the file, it is a cache"
        ) from error
    return Captured(
        statistics=_StoredStatistics(path, facts["names"], "hessian" in wanted),
        tokens=int(facts["tokens"]),
        forward_s=float(facts["forward_s"]),
        statistic_s=cast("dict[Statistic, float]", facts["statistic_s"]),
        peak_rss_bytes=facts["peak_rss_bytes"],
    )
