"""The contract of an engine: a runtime that opens an artifact and computes next-token logits.

An engine implements two methods, `status` and `open`. Parity, speed and memory are measured from outside by
`engine_bench`, in a process that runs only this engine with this artifact, so that all engines are measured in the same
way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

LastLogits = NDArray[np.float32]
"""`(1, vocab)`: the logits after the last fed token."""


@dataclass(frozen=True)
class EngineStatus:
    """Whether an engine can be used here.

    Attributes:
        usable: Whether `open` may be called.
        version: Version of the runtime and of wrapped libraries ("cyllama 0.2.18, llama.cpp b1234"); None if it is not
            installed.
        instructions: Instruction sets that it reports ("AVX2", "AVX512_VNNI").
        reason: Why it is not usable, and the command that installs it; None if it is usable.
    """

    usable: bool
    version: str | None = None
    instructions: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class OpenOptions:
    """Options for opening an artifact.

    Attributes:
        threads: Number of threads.
        context: Maximum length of the sequence, in tokens.
    """

    threads: int
    context: int


class Session(Protocol):
    """One model in memory with one sequence: `feed` extends it, `reset` forgets it."""

    @property
    def vocab(self) -> int:
        """Width of a row of logits, including padding of the vocabulary."""
        ...

    def reset(self) -> None:
        """Forget the sequence."""
        ...

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append `tokens` to the sequence and compute logits.

        Returns when the computation is finished. A single token is a decoding step, several are a prefill.

        Args:
            tokens: Token ids, at least one.
            every: Return logits after every fed token, `(len(tokens), vocab)`, instead of after the last, `(1, vocab)`.

        Raises:
            ValueError: The sequence would exceed `OpenOptions.context`.
        """
        ...

    def close(self) -> None:
        """Free the memory; the session must not be used afterwards."""
        ...


@runtime_checkable
class Chooses(Protocol):
    """Optional session capability: greedy sampling inside the engine, without returning logits."""

    def choose(self, tokens: Sequence[int]) -> int:
        """Append `tokens` as `feed` does, and return the most probable next token.

        Raises:
            ValueError: The sequence would exceed `OpenOptions.context`.
        """
        ...


@runtime_checkable
class OnCard(Protocol):
    """Optional session capability: computes on a graphics card, whose energy is measured."""

    @property
    def card(self) -> str:
        """The card's CUDA UUID ("GPU-...")."""
        ...


@runtime_checkable
class Nudged(Protocol):
    """Optional session capability: runs a model with its embeddings a little off, to show its own noise."""

    @property
    def rounds_activations(self) -> bool:
        """Whether the model rounds activations while it runs."""
        ...

    def nudged(self) -> AbstractContextManager[None]:
        """Within this context the embeddings are off at random, by about the rounding of float16."""
        ...


@runtime_checkable
class WithoutSpeed(Protocol):
    """Optional engine capability: it is measured for parity only."""

    @property
    def no_speed(self) -> str:
        """Why its speed and memory say nothing about a quantized model."""
        ...


class Engine(Protocol):
    """A runtime. Each module in `engines` defines one as `ENGINE`, named after the module."""

    @property
    def title(self) -> str:
        """Its name ("llama.cpp")."""
        ...

    @property
    def summary(self) -> str:
        """Its description, in one line."""
        ...

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of the formats that it opens, the preferred one first."""
        ...

    @property
    def extra(self) -> str | None:
        """Optional dependency that installs it (`pip install slmquant[extra]`); None if it needs none."""
        ...

    def status(self) -> EngineStatus:
        """Whether it can be used on this machine; must not raise, and must not load a model."""
        ...

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Load `artifact`.

        Raises:
            ModelError: The artifact is damaged, of an unknown version, or of an unsupported architecture.
            UnavailableError: The engine is not usable on this machine.
        """
        ...
