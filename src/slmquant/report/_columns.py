"""The columns of a result table, declared once for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from slmquant.analysis.cells import accuracy
from slmquant.analysis.chance import above_chance, accuracy_interval
from slmquant.analysis.score_table import context_of
from slmquant.analysis.scores import DEFAULT_OPTIONS, Score, ScoreOptions
from slmquant.report._sections import Cell, Section
from slmquant.store.record import Metric, task_name

ABSENT = "–"
ABOVE_CHANCE = "> chance %"
BYTES_PER_MB = 1e6
PER_CENT = 100.0


@dataclass(frozen=True)
class Reading:
    """The value of a cell in a column, in the column's unit."""

    value: float
    text: str
    stderr: float | None = None
    interval: str | None = None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: Short head, with the unit.
        meaning: One sentence; the page shows it on hover.
        read: Cell → its reading, or None if it was not measured.
        lower_is_better: None if neither direction is better, or if no test decides which cell is.
        about: The task, if several tasks have the same column.
        task: The task as `str(TaskSpec)`, for an accuracy, a perplexity or a divergence.
        figure: The name of that metric in `Standing.metric`.
    """

    title: str
    meaning: str
    read: Callable[[Cell], Reading | None]
    lower_is_better: bool | None = None
    about: str | None = None
    task: str | None = None
    figure: str | None = None


def columns(section: Section) -> list[Column]:
    """The columns of a section's table; columns without any value are left out."""
    all_columns = [
        Column("bpw", "Stored bits per weight of the whole model.", of_metric("bpw", decimal(2))),
        Column("MB", "Stored size, 10⁶ bytes.", of_metric("stored_bytes", decimal(1), BYTES_PER_MB), True),
        *(column for text in section.texts for column in _text_columns(text, len(section.texts) > 1)),
        *(column for task in section.tasks for column in _accuracy_columns(task)),
        *_performance_scores(),
        Column("quant s", "Wall-clock seconds to capture and to quantize.", of_metric("quantize_s", seconds)),
        Column("CPU s", "The same in processor seconds.", of_metric("quantize_cpu_s", seconds)),
        Column(
            "added MB",
            "Peak resident memory during the same work, minus the loaded model's, 10⁶ bytes.",
            of_metric("quantize_added_rss_bytes", decimal(0), BYTES_PER_MB),
        ),
        Column(
            "peak MB",
            "Peak resident memory up to the end of quantization, 10⁶ bytes.",
            of_metric("quantize_peak_rss_bytes", decimal(0), BYTES_PER_MB),
        ),
        _consumption_score(section.options),
    ]
    return with_values(all_columns, section.cells)


SCORES = ("perf", "perf > chance", "cons")
"""Titles of the columns that move to the table of scores if there is one."""


def score_columns(section: Section) -> list[Column]:
    """The scores of the three tracks, SLMQ_infer once per engine."""
    infer = [
        Column(
            "infer",
            f"SLMQ_infer on {engine}; 100 is full precision on the same engine.",
            _on_engine(engine, _score(lambda cell: cell.scores.infer)),
            about=engine,
        )
        for engine in section.engines
    ]
    return with_values([*_performance_scores(), *infer, _consumption_score(section.options)], section.cells)


def engine_columns(section: Section) -> list[Column]:
    """Size, memory and speed on an engine; read them from the cells in `Cell.engines`."""
    all_columns = [
        Column(
            "file MB",
            "Size of the exported artifact on disk, 10⁶ bytes.",
            of_metric("artifact_bytes", decimal(1), BYTES_PER_MB),
        ),
        Column(
            "RAM MB",
            "Peak resident memory of the engine's process during prefill and decoding, 10⁶ bytes.",
            of_metric("inference_peak_rss_bytes", decimal(0), BYTES_PER_MB),
        ),
        Column(
            "added MB",
            "Of that, the part added by the artifact, without interpreter and binding; it enters SLMQ_infer.",
            of_metric("inference_added_rss_bytes", decimal(0), BYTES_PER_MB),
        ),
        Column(
            "prefill tok/s",
            "Prompt tokens per second on all cores, for a prompt of 512 tokens or the model's maximum if shorter.",
            _at("prefill_tokens_per_s", 512),
        ),
        Column(
            "tok/s",
            "Tokens decoded per second on all cores, after 512 tokens of context or the model's maximum if shorter.",
            _at("decode_tokens_per_s", 512),
        ),
        Column(
            "× full",
            "Decoding speed relative to full precision, both timed in alternation.",
            _at("decode_speedup", 512),
        ),
    ]
    return with_values(all_columns, [measured for cell in section.cells for measured in cell.engines.values()])


def best(column: Column, section: Section) -> frozenset[str]:
    """Ids of the quantized cells that are best in a column or not significantly worse than the best.

    Empty if no cell is significantly worse, because cells are alike or too little was measured. Metrics without an
    error, such as sizes, are compared as displayed.
    """
    readings = {cell.record.cell_id: column.read(cell) for cell in section.quantized}
    known = {cell_id: reading for cell_id, reading in readings.items() if reading}
    if column.lower_is_better is None or len({reading.text for reading in known.values()}) < 2:
        return frozenset()
    if column.figure in ("perf", "above chance"):
        return frozenset(section.best_by_score.get(column.figure, ()))
    if column.figure is not None:
        standing = next((s for s in section.standings if (s.task, s.metric) == (column.task, column.figure)), None)
        return frozenset(standing.best if standing else ())
    choose = min if column.lower_is_better else max
    winner = choose(known.values(), key=lambda reading: reading.value)
    return frozenset(cell_id for cell_id, reading in known.items() if reading.text == winner.text)


def reference_words(options: ScoreOptions) -> str:
    """Name of the method that defines an SLMQ_cons of 100."""
    method = options.consumption_reference
    return "round-to-nearest" if method == DEFAULT_OPTIONS.consumption_reference else method


def decimal(digits: int) -> Callable[[float], str]:
    """A formatter with `digits` decimals."""
    return lambda value: f"{value:,.{digits}f}"


def significant(value: float) -> str:
    """Format with three significant digits; in scientific notation from 10⁶ and below 10⁻⁴."""
    if value == 0 or abs(value) >= 1e6 or abs(value) < 1e-4:
        return f"{value:.3g}"
    digits = max(0, 2 - _magnitude(value))
    return f"{value:,.{digits}f}"


def number(value: float | None) -> str:
    """Format with four significant digits, without decimals from 1000; a dash for None."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def p_value(value: float | None) -> str:
    """Format a p-value with three decimals; a dash for None."""
    return ABSENT if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def perplexity(value: float) -> str:
    """Format with two decimals; three significant digits from 1000."""
    return f"{value:.2f}" if value < 1000 else significant(value)


def seconds(value: float) -> str:
    """Format with one decimal below 100 seconds, else none."""
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _magnitude(value: float) -> int:
    return int(f"{value:e}".split("e")[1])


def _text_columns(text: str, several: bool) -> list[Column]:
    about = text if several else None
    return [
        Column(
            "ppl",
            f"Perplexity on {text}.",
            of_metric("perplexity", perplexity, task=text),
            True,
            about,
            task=text,
            figure="perplexity",
        ),
        Column(
            "KL",
            f"Mean divergence from full precision on {text}, in nats.",
            of_metric("kl_mean", significant, task=text),
            True,
            about,
            task=text,
            figure="kl_mean",
        ),
        Column(
            "KL p99",
            f"The 99th percentile of the divergence on {text}, in nats.",
            of_metric("kl_p99", significant, task=text),
            about=about,
        ),
        Column(
            "top-1 %",
            f"Share of tokens on {text} for which both models rank the same token first.",
            of_metric("top1_agreement", decimal(1), 1 / PER_CENT, task=text),
            about=about,
        ),
    ]


def _accuracy_columns(task: str) -> list[Column]:
    def read(cell: Cell) -> Reading | None:
        metric = accuracy(cell.record, task)
        reading = _reading(metric, decimal(1), 1 / PER_CENT, with_stderr=True)
        if reading is None or metric is None or metric.stderr:
            return reading
        interval = accuracy_interval(cell.record, metric)  # shown in place of an error of 0: all right or all wrong
        span = None if interval is None else f"[{PER_CENT * interval.low:.1f}, {PER_CENT * interval.high:.1f}]"
        return replace(reading, stderr=None, interval=span)

    def read_above_chance(cell: Cell) -> Reading | None:
        corrected = above_chance(cell.record, task)
        if corrected is None:
            return None
        stderr = None if corrected.stderr is None else corrected.stderr * PER_CENT
        return Reading(corrected.value * PER_CENT, decimal(1)(corrected.value * PER_CENT), stderr)

    meaning = f"Accuracy on {task}, ± one standard error."
    return [
        Column(f"{task_name(task)} %", meaning, read, False, task=task, figure="accuracy"),
        Column(
            ABOVE_CHANCE,
            f"Accuracy on {task} counted from chance, ± one standard error: 0 is guessing, 100 is all correct.",
            read_above_chance,
            False,
            about=task_name(task),
            task=task,
            figure="accuracy",
        ),
    ]


def _performance_scores() -> list[Column]:
    return [
        Column(
            "perf",
            "SLMQ_perf, with its 95 % interval; 100 is full precision.",
            _score(lambda cell: cell.scores.perf),
            False,
            figure="perf",
        ),
        Column(
            "perf > chance",
            "SLMQ_perf of accuracies alone, counted from chance, with its 95 % interval; 100 is full precision.",
            _score(lambda cell: cell.scores.perf_above_chance),
            False,
            figure="above chance",
        ),
    ]


def _consumption_score(options: ScoreOptions) -> Column:
    return Column("cons", f"SLMQ_cons; 100 is {reference_words(options)}.", _score(lambda cell: cell.scores.cons))


def with_values(all_columns: Iterable[Column], cells: Sequence[Cell]) -> list[Column]:
    """The columns in which any of the cells has a value."""
    return [column for column in all_columns if any(column.read(cell) for cell in cells)]


def _on_engine(engine: str, read: Callable[[Cell], Reading | None]) -> Callable[[Cell], Reading | None]:
    return lambda cell: read(cell.engines[engine]) if engine in cell.engines else None


def _at(name: str, longest: int) -> Callable[[Cell], Reading | None]:
    """Read metric `name` at the longest measured context up to `longest`."""

    def read(cell: Cell) -> Reading | None:
        context = context_of(cell.record.metrics, name, longest)
        return None if context is None else of_metric(f"{name}@{context}", significant)(cell)

    return read


def of_metric(
    name: str, show: Callable[[float], str], unit: float = 1.0, task: str | None = None
) -> Callable[[Cell], Reading | None]:
    """Read a metric, divided by `unit`."""
    return lambda cell: _reading(cell.record.metric(name, task), show, unit)


def _reading(
    metric: Metric | None, show: Callable[[float], str], unit: float, with_stderr: bool = False
) -> Reading | None:
    if metric is None:
        return None
    stderr = metric.stderr / unit if metric.stderr is not None and with_stderr else None
    return Reading(metric.value / unit, show(metric.value / unit), stderr)


def _score(choose: Callable[[Cell], Score]) -> Callable[[Cell], Reading | None]:
    def read(cell: Cell) -> Reading | None:
        score = choose(cell)
        if score.value is None:
            return None
        span = None if score.interval is None else f"[{score.interval.low:.1f}, {score.interval.high:.1f}]"
        return Reading(score.value, decimal(1)(score.value), interval=span)

    return read
