"""The folders that measurements read data from and cache shared results in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slmquant.files import cache_dir


@dataclass(frozen=True)
class Places:
    """Folders of a run.

    Attributes:
        data_dir: Local folder of data (`--data`, `SLMQUANT_DATA`), tried first; None for no folder.
        cache_dir: Folder of results that cells and runs share: statistics, reference states, checkpoints.
    """

    data_dir: Path | None = None
    cache_dir: Path = field(default_factory=cache_dir)
