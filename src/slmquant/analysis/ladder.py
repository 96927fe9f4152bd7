"""Whether gains in speed and memory carry over, on a ladder of random-weight models in engines.

A *gain* is that of a file with fewer bits over the one with 16 bits, in the same engine: the ratio of their times,
round by round as they took turns, or of their memory. The *ideal* is the ratio of the bytes of their weights. What is
*realised* of it is

    (ratio - 1) / (ideal - 1).

What no bit width can save is `analysis.fixed_parts`; its error of a point is also that of memory, which has no rounds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from slmquant.analysis.fixed_parts import FEWEST_SIZES, FEWEST_WIDTHS, FixedParts, fixed_parts
from slmquant.analysis.intervals import CONFIDENCE, Interval, student
from slmquant.analysis.window_means import Figure
from slmquant.errors import StoreError
from slmquant.schemes import parse
from slmquant.schemes.scheme import FULL_PRECISION_BITS
from slmquant.store.outdated import apart
from slmquant.store.random_weights import CACHE_BYTES, PREFIX, WEIGHT_BYTES, is_random
from slmquant.store.record import ItemOutcome, Record

MOST_NOISE = 0.05
"""With more processor time taken by others no verdict on a time is given."""
FEWEST_ROUNDS = 4
"""With fewer the spread of rounds is not known."""
CARRIES_OVER, HARDLY = 0.8, 0.2

Quantity = Literal["decode", "prefill", "memory"]
Verdict = Literal["carries over", "in part", "hardly", "cannot tell"]
"""More than 80 % of the ideal is realised, between 20 and 80 %, less than 20 %, or the interval holds such an end."""

ReadItems = Callable[[str], Sequence[ItemOutcome]]


@dataclass(frozen=True)
class Measured:
    """One file in an engine.

    Attributes:
        size: Name of the size.
        parameters: Number of parameters.
        embedding_share: Share of the parameters in the embedding, which is also the head.
        bits: Bits of all weights.
        weight_bytes: Bytes of the weights in the file.
        file_bytes: Bytes of the file or folder.
        decode_s: Time of a decoded token in each round.
        prefill_s: Time of a token of the prompt in each round.
        memory_bytes: Peak memory while tokens were fed and decoded, less that of the empty process.
        cache_bytes: Bytes of keys and values in 16 bits.
        load_s: Time to open the file.
        others: Share of the processor time that others took meanwhile; None if unknown.
    """

    size: str
    parameters: int
    embedding_share: float
    bits: int
    weight_bytes: float
    file_bytes: float
    decode_s: tuple[float, ...]
    prefill_s: tuple[float, ...]
    memory_bytes: float
    cache_bytes: float
    load_s: float
    others: float | None


@dataclass(frozen=True)
class Gain:
    """What fewer bits gain over 16 bits in one size.

    Attributes:
        quantity: Time of a decoded token, of a token of the prompt, or memory.
        size: Name of the size.
        bits: Bits of all weights.
        ideal: Ratio of the bytes of weights.
        measured: Ratio of the quantity.
        realised: How much of the ideal gain that is.
        verdict: What its interval shows.
        why: Why it cannot be told; None if the interval holds an end, or if it can.
    """

    quantity: Quantity
    size: str
    bits: int
    ideal: float
    measured: Figure
    realised: Figure
    verdict: Verdict
    why: str | None


@dataclass(frozen=True)
class OnEngine:
    """A ladder on one engine of one machine.

    Attributes:
        engine: The engine.
        machine: Processor and number of threads.
        files: The files, smallest model first, most bits first.
        gains: The gains of each file with fewer than 16 bits.
        times: What no bit width can save of the time of a decoded token; None if it cannot be told.
        memory: The same of memory.
        remarks: What is missing, and what cannot be told.
    """

    engine: str
    machine: str
    files: tuple[Measured, ...]
    gains: tuple[Gain, ...]
    times: FixedParts | None
    memory: FixedParts | None
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Ladder:
    """A ladder on all engines."""

    engines: tuple[OnEngine, ...]

    def as_json(self) -> dict[str, object]:
        """Everything as plain values."""
        return asdict(self)


def ladder(records: Iterable[Record], read_items: ReadItems) -> Ladder:
    """What cells of random-weight models show.

    Args:
        records: The cells, as they finished; others are ignored.
        read_items: Returns the samples of a cell, given its id.

    Raises:
        StoreError: There are none.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    kept = list(filter(is_random, records))
    outdated = apart(kept)
    for record in (record for record in kept if record.cell_id not in outdated):
        machine = record.environment
        threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
        groups.setdefault((str(record.spec.engine), f"{machine.cpu}, {threads}"), []).append(record)
    if not groups:
        raise StoreError("there are no cells of random-weight models; run `slmquant ladder` first")
    return Ladder(tuple(_on_engine(*place, several, read_items) for place, several in groups.items()))


def _on_engine(engine: str, machine: str, records: Sequence[Record], read_items: ReadItems) -> OnEngine:
    remarks = [f"{r.spec.label}: {r.status.replace('_', ' ')}: {r.reason}" for r in records if r.status != "ok"]
    files = []
    for record in (record for record in records if record.status == "ok"):
        measured = _measured(record, read_items(record.cell_id))
        if measured is None:
            remarks.append(f"{record.spec.label}: times or sizes were not kept")
        else:
            files.append(measured)
    files.sort(key=lambda one: (one.parameters, -one.bits))
    of_sizes: dict[str, list[Measured]] = {}
    for one in files:
        of_sizes.setdefault(one.size, []).append(one)
    noise = max((one.others or 0.0 for one in files), default=0.0)
    if noise > MOST_NOISE:
        remarks.append(f"others took up to {noise:.0%} of the processor: measure again on a quiet machine")
    whole = {
        size: several
        for size, several in of_sizes.items()
        if len(several) >= FEWEST_WIDTHS and several[0].bits == FULL_PRECISION_BITS
    }
    times = memory = None
    if len(whole) < FEWEST_SIZES:
        remarks.append(
            f"cannot tell what no bit width saves: {len(whole)} sizes were measured in {FEWEST_WIDTHS} widths, and "
            f"their pooled error takes {FEWEST_SIZES}"
        )
    else:
        times = fixed_parts(_points(whole, lambda one: statistics.geometric_mean(one.decode_s)))
        memory = fixed_parts(_points(whole, lambda one: one.memory_bytes))
    return OnEngine(engine, machine, tuple(files), tuple(_gains(of_sizes, memory)), times, memory, tuple(remarks))


def _points(
    of_sizes: Mapping[str, Sequence[Measured]], value: Callable[[Measured], float]
) -> dict[str, list[tuple[float, float]]]:
    return {size: [(one.weight_bytes, value(one)) for one in several] for size, several in of_sizes.items()}


def _measured(record: Record, items: Sequence[ItemOutcome]) -> Measured | None:
    """A cell's figures; None if some are missing."""
    named = {metric.name: metric.value for metric in record.metrics}
    rounds = [_of_round(item) for item in items if item.task.startswith("engine@")]
    kept = (WEIGHT_BYTES, CACHE_BYTES, "artifact_bytes", "inference_added_rss_bytes", "load_s")
    if record.model is None or any(named.get(name, 0) <= 0 for name in kept) or not rounds or None in rounds:
        return None
    times = [one for one in rounds if one is not None]
    weights = parse(record.spec.scheme).weights
    return Measured(
        size=record.spec.model.removeprefix(PREFIX),
        parameters=record.model.parameters,
        embedding_share=record.model.embedding_share,
        bits=FULL_PRECISION_BITS if weights is None else round(weights.format.bits),
        weight_bytes=named[WEIGHT_BYTES],
        file_bytes=named["artifact_bytes"],
        decode_s=tuple(decode for decode, _ in times),
        prefill_s=tuple(prefill for _, prefill in times),
        memory_bytes=named["inference_added_rss_bytes"],
        cache_bytes=named[CACHE_BYTES],
        load_s=named["load_s"],
        others=named.get("noise_others"),
    )


def _of_round(item: ItemOutcome) -> tuple[float, float] | None:
    """Times of a decoded token and of a token of the prompt; None if one of them was not timed."""
    context = int(item.task.removeprefix("engine@").partition("/")[0])
    steps = sum(name.startswith("step_") for name in item.values)
    decode, prefill = item.values.get("decode_s"), item.values.get("prefill_s")
    return (decode / steps, prefill / context) if decode and prefill and steps and context else None


def _gains(of_sizes: Mapping[str, Sequence[Measured]], memory: FixedParts | None) -> Iterable[Gain]:
    """The gains of all files with fewer bits; `memory` has the error of memory, None if it is not known."""
    pairs = [
        (several[0], fewer)
        for several in of_sizes.values()
        if several[0].bits == FULL_PRECISION_BITS
        for fewer in several[1:]
    ]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(pairs))
    for full, fewer in pairs:
        yield _gain("decode", full, fewer, _of_rounds(full.decode_s, fewer.decode_s, confidence))
        yield _gain("prefill", full, fewer, _of_rounds(full.prefill_s, fewer.prefill_s, confidence))
        logarithm = math.log(full.memory_bytes / fewer.memory_bytes)
        around = None
        if memory is not None:
            around = student(logarithm, memory.error * math.sqrt(2), memory.freedom + 1, confidence)
        yield _gain("memory", full, fewer, (logarithm, around))


def _of_rounds(full: Sequence[float], fewer: Sequence[float], confidence: float) -> tuple[float, Interval | None]:
    """Mean logarithm of the ratio of paired rounds; without an interval if rounds are few or not paired."""
    if len(full) != len(fewer) or len(full) < FEWEST_ROUNDS:
        return math.log(statistics.geometric_mean(full) / statistics.geometric_mean(fewer)), None
    logs = [math.log(one / other) for one, other in zip(full, fewer, strict=True)]
    mean = statistics.fmean(logs)
    return mean, student(mean, statistics.stdev(logs) / math.sqrt(len(logs)), len(logs), confidence)


def _gain(quantity: Quantity, full: Measured, fewer: Measured, found: tuple[float, Interval | None]) -> Gain:
    logarithm, around = found
    ideal = full.weight_bytes / fewer.weight_bytes
    if around is not None:
        around = replace(around, low=math.exp(around.low), high=math.exp(around.high))
    measured = Figure(math.exp(logarithm), around)
    realised = Figure((measured.value - 1) / (ideal - 1), None if around is None else around.rescaled(1.0, ideal - 1))
    noise = max(full.others or 0.0, fewer.others or 0.0)
    why = None
    if around is None:
        why = "too few sizes" if quantity == "memory" else "too few rounds"
    elif quantity != "memory" and noise > MOST_NOISE:
        why = f"others took {noise:.0%} of the processor"
    return Gain(
        quantity, fewer.size, fewer.bits, ideal, measured, realised, "cannot tell" if why else _verdict(realised), why
    )


def _verdict(realised: Figure) -> Verdict:
    if realised.exceeds(CARRIES_OVER):
        return "carries over"
    if realised.is_below(HARDLY):
        return "hardly"
    return "in part" if realised.exceeds(HARDLY) and realised.is_below(CARRIES_OVER) else "cannot tell"
