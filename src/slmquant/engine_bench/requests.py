"""What an engine's process can be asked: open an artifact, compare, one timed pass, weigh itself, try the machine.

Each request is plain data that knows how to answer itself; its answer is plain data, too. Nothing here imports torch:
the memory of a process is its engine's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from slmquant import engines
from slmquant.engine_bench.parity import Parity, Windows, compare, write_reference
from slmquant.engines.common.contract import Chooses, OnCard, OpenOptions, Session
from slmquant.errors import NumericalError, UnavailableError
from slmquant.machine.energy import CardEnergy, EnergyCounter, PackageEnergy
from slmquant.machine.limits import MachineLimits, measure_limits
from slmquant.machine.meters import (
    Noise,
    cpu_times,
    forget_peak,
    mapped_bytes,
    noise_between,
    peak_rss_bytes,
    rss_bytes,
)

T_co = TypeVar("T_co", covariant=True)

_PROMPT_TOKENS = 1000
"""Prompts are drawn among this many of the first tokens of a vocabulary, so that padding is never fed."""


@dataclass
class Desk:
    """What a process has at hand between two requests."""

    session: Session | None = None
    artifact: Path | None = None
    energy: EnergyCounter = field(default_factory=PackageEnergy)

    @property
    def opened(self) -> Session:
        """The session that `Open` opened."""
        if self.session is None:
            raise RuntimeError("nothing was opened in this process yet")
        return self.session


class Request(Protocol[T_co]):
    """One question."""

    def answer(self, desk: Desk) -> T_co:
        """Do it, in the engine's process."""
        ...


@dataclass(frozen=True)
class Memory:
    """Resident memory of an engine's process.

    Attributes:
        rss_bytes: Now.
        peak_bytes: At its highest since the last `Open` or since the process began.
        mapped_bytes: Of `rss_bytes`, pages that map the artifact; None where the system does not say.
    """

    rss_bytes: int
    peak_bytes: int
    mapped_bytes: int | None


@dataclass(frozen=True)
class Opened:
    """An artifact in an engine.

    Attributes:
        version: The engine's own words for its version.
        load_s: How long `Engine.open` took.
        vocab: Width of its logits.
        empty_rss_bytes: Resident memory before: the interpreter, numpy, and what of the engine was imported to ask
            for its version.
        memory: After; the peak is that of loading.
        peak_of_its_own: Whether later peaks are those of inference alone.
        energy_of: Whose energy is read.
        energy_reason: Why there is no energy to read; None where there is.
    """

    version: str
    load_s: float
    vocab: int
    empty_rss_bytes: int
    memory: Memory
    peak_of_its_own: bool
    energy_of: str
    energy_reason: str | None


@dataclass(frozen=True)
class Open:
    """Load `artifact` with the engine of that name.

    Answering raises UnavailableError where the engine is not usable here, ModelError where it cannot read the artifact.
    """

    engine: str
    artifact: Path
    options: OpenOptions

    def answer(self, desk: Desk) -> Opened:
        """Open it."""
        engine = engines.load(self.engine)
        status = engine.status()
        if not status.usable:
            raise UnavailableError(status.reason or f"{engine.title} cannot be used here")
        empty = rss_bytes()
        started = time.perf_counter()
        desk.session = engine.open(self.artifact, self.options)
        load_s = time.perf_counter() - started
        desk.artifact = self.artifact
        desk.energy = CardEnergy(desk.session.card) if isinstance(desk.session, OnCard) else PackageEnergy()
        return Opened(
            version=status.version or engine.title,
            load_s=load_s,
            vocab=desk.session.vocab,
            empty_rss_bytes=empty,
            memory=_memory(desk),
            peak_of_its_own=forget_peak(),
            energy_of=desk.energy.source,
            energy_reason=desk.energy.reason,
        )


@dataclass(frozen=True)
class Weigh:
    """Resident memory."""

    def answer(self, desk: Desk) -> Memory:
        """Read it."""
        return _memory(desk)


@dataclass(frozen=True)
class WriteReference:
    """Keep the opened model's log-probabilities of `windows` in `folder`."""

    windows: Windows
    folder: Path

    def answer(self, desk: Desk) -> Path:
        """Write them."""
        write_reference(desk.opened, self.windows, self.folder)
        return self.folder


@dataclass(frozen=True)
class Compare:
    """Compare the opened model with the log-probabilities in `folder`, and these with those of full precision."""

    windows: Windows
    folder: Path
    full: Path | None = None

    def answer(self, desk: Desk) -> Parity:
        """Compare them."""
        return compare(desk.opened, self.windows, self.folder, self.full)


@dataclass(frozen=True)
class Pass:
    """What one `Point` took.

    Attributes:
        prefill_s: Until the first new token was known; None for a context of 0.
        steps_s: Of every token that was decoded, choosing it included.
        prefill_j: Energy of the first part, and
        decode_j: of the second; None where the machine has no counter, or there was no such part.
        noise: What else the machine did; None where its clocks did not move.
    """

    prefill_s: float | None
    steps_s: tuple[float, ...]
    prefill_j: float | None
    decode_j: float | None
    noise: Noise | None


@dataclass(frozen=True)
class Point:
    """Feed `context` tokens at once to an empty sequence, then decode `steps` tokens greedily, one by one.

    With a context of 0 decoding begins with a given token.
    """

    context: int
    steps: int

    @property
    def tokens(self) -> int:
        """How long the sequence gets."""
        return self.context + self.steps

    def answer(self, desk: Desk) -> Pass:
        """Time it."""
        session = desk.opened
        prompt = _prompt(session.vocab, max(1, self.context))
        session.reset()
        clocks, start_j = cpu_times(), desk.energy.read()
        prefill_s, token = None, prompt[0]
        if self.context:
            began = time.perf_counter()
            token = _next(session, prompt)
            prefill_s = time.perf_counter() - began
        between_j = desk.energy.read()
        steps = []
        for _ in range(self.steps):
            began = time.perf_counter()
            token = _next(session, [token])
            steps.append(time.perf_counter() - began)
        return Pass(
            prefill_s=prefill_s,
            steps_s=tuple(steps),
            prefill_j=desk.energy.joules(start_j, between_j) if self.context else None,
            decode_j=desk.energy.joules(between_j, desk.energy.read()) if self.steps else None,
            noise=noise_between(clocks, cpu_times()),
        )


@dataclass(frozen=True)
class TryMachine:
    """How fast the machine reads memory and multiplies with so many threads; needs no artifact."""

    threads: int
    seconds: float

    def answer(self, desk: Desk) -> MachineLimits:
        """Measure."""
        del desk
        return measure_limits(self.threads, self.seconds)


def _memory(desk: Desk) -> Memory:
    mapped = None if desk.artifact is None else mapped_bytes(desk.artifact)
    return Memory(rss_bytes=rss_bytes(), peak_bytes=peak_rss_bytes(), mapped_bytes=mapped)


def _prompt(vocab: int, length: int) -> list[int]:
    """The same tokens for every engine; a dense model takes the same time for any."""
    drawn: list[int] = np.random.default_rng(0).integers(min(vocab, _PROMPT_TOKENS), size=length).tolist()
    return drawn


def _next(session: Session, tokens: list[int]) -> int:
    """Feed, and choose the most probable token, by the engine's own means where it has them."""
    if isinstance(session, Chooses):
        return session.choose(tokens)
    last = session.feed(tokens)[-1]
    best = int(last.argmax())
    if not np.isfinite(last[best]):  # argmax stops at a NaN
        raise NumericalError(f"the engine's logits are not finite ({last[best]})")
    return best
