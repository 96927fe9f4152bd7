"""Makes the file that was recommended, and measures it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from slmquant import api, engines, formats
from slmquant.analysis.score_table import context_of
from slmquant.boundary import size_text
from slmquant.engine_bench.jobs import EngineResult, quick_settings
from slmquant.engine_bench.reference import bench_engine
from slmquant.errors import RefusedError, SchemeError
from slmquant.machine.meters import bytes_on_disk
from slmquant.mixing.choose import Choice
from slmquant.progress import Progress
from slmquant.recommendation.answer import Answer
from slmquant.recommendation.candidate import Candidate
from slmquant.recommendation.evidence import CONTEXT
from slmquant.recommendation.question import Question
from slmquant.schemes import Scheme, parse
from slmquant.store.record import REFERENCE


@dataclass(frozen=True)
class Made:
    """A file that was made.

    Attributes:
        path: The file or folder.
        size_bytes: Its bytes on disk.
        on_engine: What the engine measured of it, in turns with full precision; None without an engine.
        notes: Remarks of the method and of the format.
    """

    path: Path
    size_bytes: int
    on_engine: EngineResult | None
    notes: tuple[str, ...]


def make(answer: Answer, output: Path, overwrite: bool, data_dir: Path | None, progress: Progress) -> Made:
    """Make the first option of an answer, and measure the file on the engine.

    Raises:
        SlmquantError: It cannot be made; nothing is left half-written.
    """
    question, candidate = answer.question, answer.options[0].candidate
    artifact = api.quantize(
        question.model,
        candidate.method,
        _scheme(question, candidate, data_dir, progress),
        calibration=candidate.calibration,
        seed=candidate.seed,
        budget=candidate.budget or "fast",
        data_dir=data_dir,
        progress=progress,
    )
    notes = artifact.quantized.notes
    if question.engine is None:
        artifact.save(output, overwrite=overwrite)
        return Made(output, bytes_on_disk(output) or 0, None, notes)
    fmt = formats.load(engines.load(question.engine).formats[0])
    written = fmt.write(artifact, output)
    with tempfile.TemporaryDirectory(prefix="slmquant-") as scratch:
        reference, full = Path(scratch) / "reference", Path(scratch) / f"full{fmt.suffix}"
        artifact.save(reference)
        del artifact
        fmt.write(api.quantize(question.model, REFERENCE, str(Scheme()), dtype="float32"), full)
        pairs = [(str(output), str(reference)), (str(full), question.model)]
        result, _ = bench_engine(question.engine, pairs, quick_settings(), 1, data_dir, progress)
    return Made(output, written.stored_bytes, result, (*notes, *written.remarks))


def _scheme(question: Question, candidate: Candidate, data_dir: Path | None, progress: Progress) -> Scheme | Choice:
    """The scheme; types that were chosen on another machine are chosen again."""
    try:
        return parse(candidate.scheme)
    except SchemeError:
        if candidate.chosen_for is None:
            raise
    return api.choose_mixture(
        question.model,
        candidate.chosen_for,
        method=candidate.method,
        calibration=candidate.calibration,
        budget=candidate.budget or "fast",
        data_dir=data_dir,
        progress=progress,
    )


def proof(made: Made) -> str:
    """What was measured of a file, in words."""
    named = {} if made.on_engine is None else {metric.name: metric.value for metric in made.on_engine.metrics}
    said = [size_text(made.size_bytes)]
    speed = None if made.on_engine is None else _speed(made.on_engine)
    said += [] if speed is None else [f"{speed:.1f} tokens/s"]
    faster = next((value for name, value in named.items() if name.startswith("decode_speedup@")), None)
    said += [] if faster is None else [f"{faster:.2f} times as fast as full precision"]
    if "inference_peak_rss_bytes" in named:
        said.append(f"{size_text(round(named['inference_peak_rss_bytes']))} of memory")
    if "parity_kl_mean" in named:
        said.append(f"{named['parity_kl_mean']:.2g} nats from what torch computes of the same codes")
    return ", ".join(said)


def check_made(made: Made, question: Question) -> None:
    """Refuse a file that misses a constraint of resources.

    Raises:
        RefusedError: It does; it is left for inspection.
    """
    if found := missed(made, question):
        raise RefusedError(f"{made.path} was made, but is not what was asked: {'; '.join(found)}")


def missed(made: Made, question: Question) -> list[str]:
    """What a file has and should have instead, for each constraint of resources that it misses."""
    asked, misses = question.constraints, []
    result = made.on_engine
    if question.engine is not None and asked.max_bytes is not None and made.size_bytes > asked.max_bytes:
        misses.append(f"{size_text(made.size_bytes)} and not at most {size_text(asked.max_bytes)}")
    speed = None if result is None else _speed(result)
    if asked.min_tokens_per_second is not None and speed is not None and speed < asked.min_tokens_per_second:
        misses.append(f"{speed:.1f} tokens/s and not at least {asked.min_tokens_per_second:g}")
    memory = None if result is None else _memory(result)
    if asked.max_memory is not None and memory is not None and memory > asked.max_memory:
        misses.append(f"{size_text(memory)} of memory and not at most {size_text(asked.max_memory)}")
    if result is not None and result.status != "ok":
        misses.append(f"{question.engine} {result.status}: {result.reason}")
    return misses


def _speed(result: EngineResult) -> float | None:
    context = context_of(result.metrics, "decode_tokens_per_s", CONTEXT)
    return next((m.value for m in result.metrics if m.name == f"decode_tokens_per_s@{context}"), None)


def _memory(result: EngineResult) -> int | None:
    return next((round(m.value) for m in result.metrics if m.name == "inference_peak_rss_bytes"), None)
