"""Requests to an engine's process: open an artifact, compare, run a timed pass, measure memory or machine limits.

Requests and answers are plain data; a request's `answer` method computes the answer in the engine's process. Nothing
here imports torch, so that the memory of a process is the engine's alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from slmquant import engines
from slmquant.engine_bench.agreement import Parity
from slmquant.engine_bench.parity import Windows, compare, write_reference
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
"""Prompts are drawn from this many first tokens of a vocabulary, so that padding tokens are never fed."""


@dataclass
class WorkerState:
    """State of an engine's process between two requests."""

    session: Session | None = None
    artifact: Path | None = None
    energy: EnergyCounter = field(default_factory=PackageEnergy)

    @property
    def opened(self) -> Session:
        """The session that `Open` opened."""
        if self.session is None:
            raise RuntimeError("no artifact is open in this process; send Open first")
        return self.session


class Request(Protocol[T_co]):
    """A request to an engine's process."""

    def answer(self, state: WorkerState) -> T_co:
        """Compute the answer; runs in the engine's process."""
        ...


@dataclass(frozen=True)
class Memory:
    """Resident memory of an engine's process.

    Attributes:
        rss_bytes: Current resident memory.
        peak_bytes: Peak since the last `Open`, or since the process started.
        mapped_bytes: The part of `rss_bytes` that maps the artifact's files; None if unsupported.
    """

    rss_bytes: int
    peak_bytes: int
    mapped_bytes: int | None


@dataclass(frozen=True)
class Opened:
    """Result of opening an artifact.

    Attributes:
        version: Version, as the engine states it.
        load_s: Duration of `Engine.open`.
        vocab: Width of a row of logits.
        empty_rss_bytes: Resident memory before opening: the interpreter, numpy, and the parts of the engine that were
            imported to query its version.
        memory: Memory after opening; its peak is that of loading.
        peak_of_its_own: Whether later peaks exclude loading.
        energy_of: The device whose energy is measured.
        energy_reason: Why energy cannot be measured; None if it can.
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
    """Load `artifact` with the named engine.

    `answer` raises UnavailableError if the engine is not usable here, ModelError if it cannot read the artifact.
    """

    engine: str
    artifact: Path
    options: OpenOptions

    def answer(self, state: WorkerState) -> Opened:
        """Open the artifact."""
        engine = engines.load(self.engine)
        status = engine.status()
        if not status.usable:
            raise UnavailableError(status.reason or f"{engine.title} is not usable here")
        empty = rss_bytes()
        started = time.perf_counter()
        state.session = engine.open(self.artifact, self.options)
        load_s = time.perf_counter() - started
        state.artifact = self.artifact
        state.energy = CardEnergy(state.session.card) if isinstance(state.session, OnCard) else PackageEnergy()
        return Opened(
            version=status.version or engine.title,
            load_s=load_s,
            vocab=state.session.vocab,
            empty_rss_bytes=empty,
            memory=_memory(state),
            peak_of_its_own=forget_peak(),
            energy_of=state.energy.source,
            energy_reason=state.energy.reason,
        )


@dataclass(frozen=True)
class MeasureMemory:
    """Measure the process's resident memory."""

    def answer(self, state: WorkerState) -> Memory:
        """Read the memory."""
        return _memory(state)


@dataclass(frozen=True)
class WriteReference:
    """Write the log-probabilities of `windows` of the opened model, named `model`, to `folder`."""

    windows: Windows
    folder: Path
    model: str

    def answer(self, state: WorkerState) -> Path:
        """Write the files and return the folder."""
        write_reference(state.opened, self.windows, self.folder, self.model)
        return self.folder


@dataclass(frozen=True)
class Compare:
    """Compare the opened model with the reference in `folder`, and that one with full precision in `full`."""

    windows: Windows
    folder: Path
    full: Path | None = None

    def answer(self, state: WorkerState) -> Parity:
        """Compare, see `parity.compare`."""
        return compare(state.opened, self.windows, self.folder, self.full)


@dataclass(frozen=True)
class Pass:
    """Times and energy of one run of a `Point`.

    Attributes:
        prefill_s: Time until the first new token was chosen; None for a context of 0.
        steps_s: Time of each decoded token, sampling included.
        prefill_j: Energy of the prefill; None if there was none, or the machine has no energy counter.
        decode_j: Energy of decoding; None likewise.
        noise: Load from other work meanwhile; None if the pass was too short to measure it.
    """

    prefill_s: float | None
    steps_s: tuple[float, ...]
    prefill_j: float | None
    decode_j: float | None
    noise: Noise | None


@dataclass(frozen=True)
class Point:
    """Feed `context` tokens at once to an empty sequence, then decode `steps` tokens greedily, one by one.

    With a context of 0, decoding starts from a fixed token.
    """

    context: int
    steps: int

    @property
    def tokens(self) -> int:
        """Final length of the sequence."""
        return self.context + self.steps

    def answer(self, state: WorkerState) -> Pass:
        """Run and time the pass."""
        session = state.opened
        prompt = _prompt(session.vocab, max(1, self.context))
        session.reset()
        clocks, start_j = cpu_times(), state.energy.read()
        prefill_s, token = None, prompt[0]
        if self.context:
            began = time.perf_counter()
            token = _next(session, prompt)
            prefill_s = time.perf_counter() - began
        between_j = state.energy.read()
        steps = []
        for _ in range(self.steps):
            began = time.perf_counter()
            token = _next(session, [token])
            steps.append(time.perf_counter() - began)
        return Pass(
            prefill_s=prefill_s,
            steps_s=tuple(steps),
            prefill_j=state.energy.joules(start_j, between_j) if self.context else None,
            decode_j=state.energy.joules(between_j, state.energy.read()) if self.steps else None,
            noise=noise_between(clocks, cpu_times()),
        )


@dataclass(frozen=True)
class MeasureLimits:
    """Measure memory bandwidth and multiplication rate with `threads` threads; needs no artifact."""

    threads: int
    seconds: float

    def answer(self, state: WorkerState) -> MachineLimits:
        """Measure, see `machine.limits.measure_limits`."""
        del state
        return measure_limits(self.threads, self.seconds)


def _memory(state: WorkerState) -> Memory:
    mapped = None if state.artifact is None else mapped_bytes(state.artifact)
    return Memory(rss_bytes=rss_bytes(), peak_bytes=peak_rss_bytes(), mapped_bytes=mapped)


def _prompt(vocab: int, length: int) -> list[int]:
    """Random tokens, the same for every engine; the time of a dense model does not depend on them."""
    drawn: list[int] = np.random.default_rng(0).integers(min(vocab, _PROMPT_TOKENS), size=length).tolist()
    return drawn


def _next(session: Session, tokens: list[int]) -> int:
    """Feed tokens and return the most probable next one; the engine's own sampler is used if it has one."""
    if isinstance(session, Chooses):
        return session.choose(tokens)
    last = session.feed(tokens)[-1]
    best = int(last.argmax())
    if not np.isfinite(last[best]):  # argmax stops at a NaN
        raise NumericalError(f"the engine's logits are not finite ({last[best]})")
    return best
