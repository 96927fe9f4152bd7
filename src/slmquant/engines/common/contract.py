"""What an engine is: a runtime that opens an artifact and computes next-token logits with it.

An engine implements two things, `status` and `open`. Parity, speed and memory are measured from the outside by
`engine_bench.figures`, in a process that runs this one engine on this one artifact and nothing else, so that every
engine is asked the same questions by the same clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

LastLogits = NDArray[np.float32]
"""`(1, vocab)`: the logits that follow the last token that was fed."""


@dataclass(frozen=True)
class EngineStatus:
    """Whether an engine can be used here.

    Attributes:
        usable: True where `open` may be called.
        version: Of the runtime, and of what it wraps ("cyllama 0.2.18, llama.cpp b1234"); None where not installed.
        instructions: Instruction sets it says that it uses ("AVX2", "AVX512_VNNI").
        reason: Why it is not usable, and the line that installs it; None where it is.
    """

    usable: bool
    version: str | None = None
    instructions: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class OpenOptions:
    """How an artifact is opened.

    Attributes:
        threads: Threads that compute.
        context: Tokens that one sequence may hold.
    """

    threads: int
    context: int


class Session(Protocol):
    """One model in memory with one sequence, which grows by what is fed and is forgotten by `reset`."""

    @property
    def vocab(self) -> int:
        """Width of a row of logits; padding of the vocabulary included."""
        ...

    def reset(self) -> None:
        """Forget the sequence."""
        ...

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append `tokens` to the sequence and compute.

        Returns when the computation is done. A single token is a decoding step, many are a prefill.

        Args:
            tokens: Token ids, at least one.
            every: Logits after every fed token, `(len(tokens), vocab)`, rather than after the last, `(1, vocab)`.

        Raises:
            ValueError: The sequence would outgrow `OpenOptions.context`.
        """
        ...

    def close(self) -> None:
        """Give memory back; the session is not used afterwards."""
        ...


@runtime_checkable
class Chooses(Protocol):
    """What a session has besides where its engine chooses tokens by itself, so that no row of logits leaves it."""

    def choose(self, tokens: Sequence[int]) -> int:
        """Append `tokens` as `feed` does, and return the most probable next token.

        Raises:
            ValueError: The sequence would outgrow `OpenOptions.context`.
        """
        ...


@runtime_checkable
class OnCard(Protocol):
    """What a session has besides where a graphics card computes: its energy is what counts."""

    @property
    def card(self) -> str:
        """Which card, by CUDA's UUID ("GPU-...")."""
        ...


class Engine(Protocol):
    """One runtime. A module of this package holds one as `ENGINE`; its name is the file's name."""

    @property
    def title(self) -> str:
        """Its name ("llama.cpp")."""
        ...

    @property
    def summary(self) -> str:
        """What it is, in a line."""
        ...

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of the formats that it opens, preferred first."""
        ...

    @property
    def extra(self) -> str | None:
        """The optional dependency that brings it (`pip install slmquant[extra]`); None where nothing is missing."""
        ...

    def status(self) -> EngineStatus:
        """Whether it can be used here; must not raise, and must not load a model."""
        ...

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Load `artifact`.

        Raises:
            ModelError: The artifact is damaged, of an unknown version, or of an architecture that the engine lacks.
            UnavailableError: The engine is not usable here.
        """
        ...
