"""Made-up text in the form of the local data folder."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.tasks.made_up import sentences


def write_text(data: Path, name: str, seed: int) -> None:
    (data / "text").mkdir(parents=True, exist_ok=True)
    (data / "text" / f"{name}.txt.gz").write_bytes(gzip.compress(sentences(seed, 60).encode()))
