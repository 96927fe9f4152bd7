"""`slmquant bench-engine`: measure artifacts on an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._output import (
    DataOption,
    JsonOption,
    QuietOption,
    print_json,
    print_table,
    progress_bar,
    say,
    tell,
)
from slmquant.errors import FAILED_CELLS

if TYPE_CHECKING:
    from slmquant.analysis.scores import Score
    from slmquant.engine_bench.jobs import EngineJob, EngineResult, Settings

"""Exit code of a bench with rows that are not `ok`."""


def command(
    artifacts: Annotated[
        list[str],
        typer.Argument(help="Files or folders to measure side by side.", metavar="ARTIFACT..."),
    ],
    engine: Annotated[str, typer.Option("--engine", "-e", help="Engine to measure on; see `slmquant engines`.")],
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            help="Model to compare outputs with, in torch: a slmquant folder (`export --keep`) or a model source; "
            "give one per artifact, in order.",
            show_default="the artifact itself, if a GGUF file or checkpoint",
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Full-precision artifact to compare with, measured in turns with the others.")
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="Thread counts to measure, e.g. `1,2`.", show_default="1 and all cores")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure fewer rounds, all cores only, no long context.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Number of timed passes.", show_default="10; 3 with --quick")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Time limit of opening, of a comparison and of a pass, in seconds.")
    ] = 300,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report's file, `<time>.json`.")] = Path(
        "results/engines"
    ),
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure artifacts on an engine: check its outputs against torch, then measure speed, memory and energy.

    All cores means as many as OMP_NUM_THREADS allows, if it is set.

    Examples:
        slmquant bench-engine model.gguf --engine llamacpp

        slmquant bench-engine ours.gguf --engine llamacpp --reference ours --baseline f16.gguf --threads 1,2
    """
    from slmquant import engines
    from slmquant.engine_bench.reference import bench_engine
    from slmquant.files import make_folder

    make_folder(output)
    engines.load(engine)  # refuse a wrong name before anything is computed
    settings = _settings(quick, rounds, threads, timeout)
    names = [*artifacts, *([baseline] if baseline is not None and baseline not in artifacts else [])]
    pairs = _pairs(names, len(artifacts), list(reference or []))
    with progress_bar(quiet) as progress:
        results = bench_engine(engine, pairs, settings, names.index(baseline) if baseline else None, data, progress)
    full = None if baseline is None else results[names.index(baseline)]
    scores = [_score(result, full) for result in results]
    facts = [_facts(result, score) for result, score in zip(results, scores, strict=True)]
    path = _write(facts, output)
    if json:
        print_json(facts)
    else:
        _print(engine, results, scores)
        if not quiet:
            tell(f"all figures and raw samples: {path}")
    if any(result.status != "ok" for result in results):
        raise typer.Exit(FAILED_CELLS)


def _pairs(names: Sequence[str], artifacts: int, references: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each artifact, the baseline last, with its reference for torch, or None."""
    if references and len(references) != artifacts:
        raise typer.BadParameter(
            f"{len(references)} references for {artifacts} artifacts; give one per artifact, in order, or none",
            param_hint="--reference",
        )
    return [(name, references[place] if place < len(references) else None) for place, name in enumerate(names)]


def _write(facts: Sequence[dict[str, object]], folder: Path) -> Path:
    """Write the report's file, named by the time, and return its path."""
    from slmquant.files import atomic_file

    path = folder / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S%fZ}.json"
    with atomic_file(path) as temporary:
        temporary.write_text(_document(facts), encoding="utf-8")
    return path


def _settings(quick: bool, rounds: int | None, threads: str | None, timeout: float) -> Settings:
    from slmquant.engine_bench.jobs import Settings, quick_settings

    settings = replace(quick_settings() if quick else Settings(), timeout_s=timeout)
    if rounds is not None:
        settings = replace(settings, rounds=rounds)
    if threads is None:
        return settings
    try:
        numbers = tuple(dict.fromkeys(int(number) for number in threads.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{threads!r} is no list of thread counts; expected e.g. 1,2", param_hint="--threads")
    return replace(settings, threads=numbers)


def _score(result: EngineResult, full: EngineResult | None) -> Score:
    from slmquant.analysis.score_table import infer_score
    from slmquant.analysis.scores import Score

    if full is None:
        return Score(None, reason="no full-precision artifact to compare with; name one with --baseline")
    return infer_score(result.metrics, full.metrics, full.job.label)


def _facts(result: EngineResult, score: Score) -> dict[str, object]:
    from dataclasses import asdict

    from slmquant.machine.environment import environment

    job: EngineJob = result.job
    return {
        "artifact": job.label,
        "engine": job.engine,
        "version": result.version,
        "status": result.status,
        "reason": None if result.reason is None else _without_folders(result.reason, job),
        "notes": [_without_folders(note, job) for note in result.notes],
        "metrics": [metric.model_dump() for metric in result.metrics],
        "slmq_infer": asdict(score),
        "samples": [item.model_dump(exclude={"text"}) for item in result.items],
        "environment": environment().model_dump(),
    }


def _without_folders(text: str, job: EngineJob) -> str:
    """`text` with the artifact's path on this machine replaced by its label."""
    return text.replace(str(job.artifact), job.label)


def _document(facts: Sequence[dict[str, object]]) -> str:
    from json import dumps

    return dumps(facts, indent=1, ensure_ascii=False) + "\n"


def _print(engine: str, results: Sequence[EngineResult], scores: Sequence[Score]) -> None:
    """Print a line for each artifact and timed thread count."""
    rows = [row for result, score in zip(results, scores, strict=True) for row in _rows(result, score)]
    print_table(f"On {engine}", _COLUMNS, rows)
    for result in results:
        for remark in ([result.reason] if result.reason else []) + list(result.notes):
            say(f"{result.job.label}: {remark}")
    reasons = dict.fromkeys(score.reason for score in scores if score.reason)
    for reason in reasons:
        say(f"SLMQ_infer: {reason}")


_COLUMNS = (
    "artifact", "status", "threads", "MB", "KL", "ppl", "prefill ≤512", "decode 0", "decode ≤512", "p99 ms",
    "bandwidth", "times", "peak MB", "added MB", "load s", "others", "SLMQ_infer",
)  # fmt: skip


def _rows(result: EngineResult, score: Score) -> list[tuple[str, ...]]:
    from slmquant.analysis.score_table import context_of

    metrics = {metric.name: metric.value for metric in result.metrics}
    decoded, read = (context_of(result.metrics, f"{part}_tokens_per_s", 512) for part in ("decode", "prefill"))
    suffixes = [name.removeprefix("load_s") for name in metrics if name.startswith("load_s") and "iqr" not in name]

    def show(name: str, form: str, factor: float = 1.0) -> str:
        return form.format(metrics[name] * factor) if name in metrics else ""

    scored = "" if "" in suffixes else next(iter(suffixes), "")  # as `infer_score` does
    rows: list[tuple[str, ...]] = []
    for suffix in suffixes or [""]:
        rows.append(
            (
                result.job.label,
                result.status.replace("_", " "),
                (suffix.strip("/t") or "all") if suffixes else "",
                show("artifact_bytes", "{:.1f}", 1e-6),
                show("parity_kl_mean", "{:.4f}"),
                show("engine_perplexity", "{:.3f}"),
                show(f"prefill_tokens_per_s@{read}{suffix}", "{:.0f}"),
                show(f"decode_tokens_per_s@0{suffix}", "{:.1f}"),
                show(f"decode_tokens_per_s@{decoded}{suffix}", "{:.1f}"),
                show(f"inter_token_p99_s@{decoded}{suffix}", "{:.1f}", 1e3),
                show(f"decode_bandwidth_share@0{suffix}", "{:.0%}"),
                show(f"decode_speedup@{decoded}{suffix}", "{:.2f}"),
                show(f"inference_peak_rss_bytes{suffix}", "{:.0f}", 1e-6),
                show(f"inference_added_rss_bytes{suffix}", "{:.0f}", 1e-6),
                show(f"load_s{suffix}", "{:.2f}"),
                show(f"noise_others{suffix}", "{:.0%}"),
                f"{score.value:.1f}" if score.value is not None and suffix == scored else "",
            )
        )
    return rows
