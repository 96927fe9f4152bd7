from __future__ import annotations

import os
from pathlib import Path

import pytest

from slmquant.model.pulling import pull

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def data_dir() -> Path:
    """A local folder of data, beside the repository or named by SLMQUANT_DATA."""
    folder = Path(os.environ.get("SLMQUANT_DATA") or SHARED / "data")
    if not folder.is_dir():
        pytest.skip("no local folder of data; set SLMQUANT_DATA")
    return folder


@pytest.fixture
def stories260k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> str:
    """stories260k in a cache of the test's own."""
    source = data_dir.parent / "models" / "stories260k"
    if not source.is_dir():
        pytest.skip("models/stories260k is not beside the data folder")
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    pull("stories260k", local=source)
    return "stories260k"
