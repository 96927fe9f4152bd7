"""Engines that are made up: one that is right, and others that fail in every way that an engine can.

They reach the engine's process as any third party's do, through entry points on the path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from slmquant.engines.common.contract import OpenOptions

VOCAB = 11

_COMMON = """
import os, sys, time
from slmquant.engines.common.contract import EngineStatus
from slmquant.errors import ModelError
from tests.made_up_engines import Bigram

class Engine:
    title, summary, formats, extra = "made up", "a table of bigrams", ("native",), None
    def status(self):
        return EngineStatus(usable=True, version="made-up 1", instructions=("ABACUS",))
    def open(self, artifact, options):
        return Bigram(options)
"""

_ENGINES = {
    "right": "ENGINE = Engine()",
    "wrong": """
class Wrong(Engine):
    def open(self, artifact, options):
        return Bigram(options, temper=1.5)
ENGINE = Wrong()
""",
    "missing": """
class Missing(Engine):
    def status(self):
        return EngineStatus(usable=False, reason="made-up is not installed; pip install slmquant[made-up]")
ENGINE = Missing()
""",
    "unreadable": """
class Unreadable(Engine):
    def open(self, artifact, options):
        raise ModelError(f"{artifact.name} is of version 9, made-up reads up to 3; update it")
ENGINE = Unreadable()
""",
    "buggy": """
class Buggy(Engine):
    def open(self, artifact, options):
        return {}["no such key"]
ENGINE = Buggy()
""",
    "crashing": """
class Crash(Bigram):
    def feed(self, tokens, *, every=False):
        if not every:
            print("GGML_ASSERT: all is lost", file=sys.stderr, flush=True)
            os.abort()
        return super().feed(tokens, every=every)
class Crashing(Engine):
    def open(self, artifact, options):
        return Crash(options)
ENGINE = Crashing()
""",
    "hanging": """
class Hanging(Engine):
    def open(self, artifact, options):
        print("loading, loading", file=sys.stderr, flush=True)
        time.sleep(600)
ENGINE = Hanging()
""",
    "talking": """
class Talk(Bigram):
    def feed(self, tokens, *, every=False):
        print("what an engine prints")
        os.write(1, b"what its C library prints")
        return super().feed(tokens, every=every)
class Talking(Engine):
    def open(self, artifact, options):
        return Talk(options)
ENGINE = Talking()
""",
    "undefined": """
class Nan(Bigram):
    def feed(self, tokens, *, every=False):
        return super().feed(tokens, every=every) * float("nan")
class Undefined(Engine):
    def open(self, artifact, options):
        return Nan(options)
ENGINE = Undefined()
""",
}


class Bigram:
    """The next token depends on the last one alone.

    Args:
        options: Its context is kept to.
        temper: What the right logits are multiplied with.
        padding: Columns beyond the vocabulary.
    """

    def __init__(self, options: OpenOptions, temper: float = 1.0, padding: int = 0) -> None:
        rng = np.random.default_rng(5)
        table: NDArray[np.float64] = np.concatenate(
            [2 * rng.standard_normal((VOCAB, VOCAB)), np.full((VOCAB, padding), -30.0)], axis=1
        )
        self._table: NDArray[np.float32] = (temper * table).astype(np.float32)
        self._context, self.fed = options.context, 0

    @property
    def vocab(self) -> int:
        return int(self._table.shape[1])

    def reset(self) -> None:
        self.fed = 0

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        self.fed += len(tokens)
        if self.fed > self._context:
            raise ValueError(f"{self.fed} tokens are more than the context of {self._context}")
        rows: NDArray[np.float32] = self._table[np.asarray(tokens)]
        return rows if every else rows[-1:]

    def close(self) -> None:
        self._table = self._table[:0]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Put every made-up engine on the path of this process and of those that it starts; their names."""
    package = folder / "made_up_package"
    package.mkdir()
    (package / "__init__.py").touch()
    info = folder / "made_up_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-package\nVersion: 1\n")
    lines = ["[slmquant.engines]"]
    for name, body in _ENGINES.items():
        (package / f"{name}.py").write_text(_COMMON + body)
        lines.append(f"{name} = made_up_package.{name}")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module in [name for name in sys.modules if name.startswith("made_up_package")]:  # of an earlier test
        monkeypatch.delitem(sys.modules, module)
    repository = Path(__file__).resolve().parents[1]
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(repository))))
    return tuple(_ENGINES)
