"""The sentences of a report: remarks on a section, notes below its table, definitions of its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import yaml

from slmquant.analysis.cells import accuracy
from slmquant.analysis.scores import ScoreOptions
from slmquant.analysis.standing import Standing
from slmquant.report._columns import ABSENT, perplexity, reference_words
from slmquant.report._costs import sharing_notes
from slmquant.report._headline import perplexity_of
from slmquant.report._noise import busy_notes
from slmquant.report._sections import Cell, Section
from slmquant.store.export import calibration_label
from slmquant.store.record import CalibrationSpec, CellSpec, ComputeDtype, Environment, Record

_DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "bpw",
        "Bits per weight: stored bits of the whole model divided by its number of weights. Scales, zero points, "
        "embeddings and head are included; tied weights count once.",
    ),
    ("MB", "Stored size in 10⁶ bytes, counted as for bpw."),
    (
        "ppl",
        "Perplexity: e to the mean negative log-likelihood per token. It depends on text, window length and "
        "tokenizer, so compare it only under one protocol. Lower is better.",
    ),
    (
        "KL",
        "Kullback–Leibler divergence from the full-precision model's next-token distribution to the "
        "quantized model's, in nats, averaged over tokens. The most sensitive measure here; 0 means identical.",
    ),
    ("KL p99", "The 99th percentile of the same divergence over tokens: how bad the worst tokens are."),
    ("top-1 %", "Share of tokens for which both models rank the same token first."),
    (
        "accuracy %",
        "Share of correct answers, by lm-eval's definitions: length-normalized (acc_norm) if lm-eval defines it for "
        "the task, else plain (acc); exact match for tasks with written answers. ± is one standard error.",
    ),
    (
        "> chance %",
        "(accuracy − chance) / (1 − chance), in per cent: 0 is guessing, 100 is all correct. ± is the standard error "
        "of the accuracy, scaled in the same way.",
    ),
    (
        "flips",
        "Answers that are right in full precision and wrong in the quantized model (−), and the reverse (+). "
        "▼ worse, ▲ better, ≈ equivalent within the margin, ? too few items to tell.",
    ),
    (
        "perf",
        "SLMQ_perf of the SLMQuant paper: the quadratic mean of each accuracy{and_perplexity}, relative to full "
        "precision, times 100. A small model that only guesses still scores about 70.",
    ),
    (
        "perf > chance",
        "The same for accuracies alone, counted from chance: 100 is full precision, guessing counts 0, and below "
        "chance counts negative. Absent if full precision is not significantly above chance on a task.",
    ),
    (
        "quant s",
        "Wall-clock seconds to capture calibration statistics and to quantize. Shared work counts in full; loading the "
        "model does not count.",
    ),
    ("CPU s", "The same in processor seconds, summed over all cores; the median of three runs if quantizing is short."),
    (
        "added MB",
        "Peak resident memory during the same work, minus the memory of the loaded model, in 10⁶ bytes.",
    ),
    ("peak MB", "Peak resident memory of the cell's process up to the end of quantization, in 10⁶ bytes."),
    ("device MB", "Peak memory that torch allocated on the graphics card during the same work, in 10⁶ bytes."),
    (
        "energy J",
        "Energy of the computing device during the same work: the graphics card, or the processor packages with all "
        "that runs on them. Absent on machines without a counter.",
    ),
    ("cost", "Money for the quant s, at the rate per hour that the report was given."),
    (
        "cons",
        "SLMQ_cons: the quadratic mean of two ratios, CPU s and added MB of {cheapest} divided by this cell's, times "
        "100; for the same model and scheme on the same machine. Higher is cheaper.",
    ),
)


def definitions(options: ScoreOptions) -> list[tuple[str, str]]:
    """(column title, definition) for every column, with the score options filled in."""
    words = {
        "and_perplexity": ", and of the inverse perplexity" if options.perplexity else "",
        "cheapest": reference_words(options),
    }
    return [(title, meaning.format(**words)) for title, meaning in _DEFINITIONS]


def remarks(section: Section) -> list[str]:
    """Sentences below the headline: where methods differ most, and how many cells ended in which status."""
    sentences = [f"Outdated, do not compare with newer tables: {reason}." for reason in section.outdated]
    contest = _widest_contest(section)
    if contest:
        ranking = ", ".join(f"{cell.method} {perplexity(value)}" for value, cell in contest)
        sentences.append(f"Methods differ most at {contest[0][1].record.spec.scheme}: perplexity {ranking}.")
    counts = [f"{len(section.cells)} cell{'s' * (len(section.cells) != 1)} measured"]
    for status in ("refused", "failed", "timeout", "out_of_memory"):
        number = sum(record.status == status for record in section.failures)
        counts += [f"{number} {STATUS_WORDS[status]}"] if number else []
    sentences.append(f"{', '.join(counts)}.")
    return sentences


STATUS_WORDS = {
    "ok": "measured",
    "refused": "refused",
    "failed": "failed",
    "timeout": "timed out",
    "out_of_memory": "out of memory",
}


def scheme_words(record: Record) -> str:
    """`W4A16g64`, or `W4A16g64 on llamacpp`."""
    return record.spec.scheme + ("" if record.spec.engine is None else f" on {record.spec.engine}")


def notes(section: Section) -> list[str]:
    """Notes below a table: protocols, subsets, dtype, machine, provenance, scores."""
    return [
        *_model_notes(section),
        *_protocol_notes(section),
        *_noise_notes(section),
        *_standing_notes(section),
        *_unique(machine_words(record.environment) for record in section.records),
        *_score_notes(section),
        *sharing_notes(section),
        *busy_notes(section),
    ]


def machine_words(environment: Environment) -> str:
    """One line: processor, threads, memory, system, versions."""
    where = f"{environment.cpu}, {environment.threads} of {environment.cores} cores"
    where += f", {environment.gpu}" if environment.gpu else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(environment.versions.items()))
    return f"Machine: {where}, {environment.memory_bytes / 1e9:.0f} GB, {environment.platform}; {versions}."


def plans(section: Section) -> list[str]:
    """YAML plans that reproduce these cells: one for each combination of seed, calibration set and budget."""
    groups: dict[_Setting, list[CellSpec]] = {}
    quantized = [r.spec for r in section.records if not r.spec.is_reference and r.spec.engine is None]
    sets = {spec.seed: spec.calibration for spec in quantized if spec.calibration}
    budgets = {spec.seed: spec.budget for spec in quantized if spec.budget}
    for spec in quantized:  # a cell without calibration or budget joins a plan that has one
        setting = (spec.seed, spec.calibration or sets.get(spec.seed), spec.budget or budgets.get(spec.seed))
        groups.setdefault(setting, []).append(spec)
    return [_plan(setting, specs, section.engines) for setting, specs in groups.items()]


_Setting = tuple[int, CalibrationSpec | None, str | None]
"""(seed, calibration set, budget)."""


def _plan(setting: _Setting, specs: list[CellSpec], engines: list[str]) -> str:
    seed, calibration, budget = setting
    fields: dict[str, object] = {
        "models": [specs[0].model],
        "methods": _unique(spec.method for spec in specs),
        "schemes": _unique(spec.scheme for spec in specs),
        "tasks": [str(task) for task in specs[0].tasks],
        "dtype": specs[0].compute_dtype,
        "device": specs[0].device,
        "seed": seed,
    }
    if budget is not None:
        fields["budget"] = budget
    if engines:
        fields["engines"] = engines
    if calibration is not None:
        fields["calibration"] = calibration.model_dump()
    return yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=100)


def _widest_contest(section: Section) -> list[tuple[float, Cell]]:
    """(perplexity, cell) at the scheme where methods differ most, best first."""
    by_scheme: dict[str, list[tuple[float, Cell]]] = {}
    for cell in section.quantized:
        value = perplexity_of(cell, section)
        if value is not None:
            by_scheme.setdefault(cell.record.spec.scheme, []).append((value, cell))
    contests = [sorted(cells, key=lambda pair: pair[0]) for cells in by_scheme.values() if len(cells) > 1]
    return max(contests, key=lambda cells: cells[-1][0] / cells[0][0], default=[])


_PRODUCTS: Mapping[ComputeDtype, str] = {
    "float32": "",
    "bfloat16": ", matrix products of linear layers in bfloat16",
    "bfloat16_all": ", matrix products of linear layers and attention in bfloat16, those of the head from bfloat16",
}


def _model_notes(section: Section) -> list[str]:
    sentences = []
    for card in dict.fromkeys(record.model for record in section.records if record.model):
        sentences.append(
            f"Model: {section.model}, {card.architecture}, {card.parameters / 1e6:,.1f} million parameters, "
            f"{card.embedding_share:.0%} of them in embeddings and head; weights: {card.provenance}."
        )
    spec = section.records[0].spec
    seeds = ", ".join(_unique(str(record.spec.seed) for record in section.records))
    sentences.append(f"Evaluated in float32{_PRODUCTS[spec.compute_dtype]}, on {spec.device}; seed {seeds}.")
    labels = _unique(calibration_label(r.spec.calibration) or "" for r in section.records)
    calibrations = [label for label in labels if label]
    if calibrations:
        sentences.append(f"Calibration of the methods that use data: {'; '.join(calibrations)}.")
    return sentences


def _protocol_notes(section: Section) -> list[str]:
    sentences = []
    for text in section.texts:
        metrics = [m for cell in section.cells if (m := cell.record.metric("perplexity", text))]
        sentences += _unique(
            f"{text}: {m.protocol or 'protocol not stated'}{f', {m.n:,} tokens' if m.n else ''}." for m in metrics
        )
    for task in section.tasks:
        metrics = [m for cell in section.cells if (m := accuracy(cell.record, task))]
        sentences += _unique(
            f"{task}: {m.name}{f' on {m.n:,} items' if m.n else ''}, ± one standard error." for m in metrics
        )
    return sentences


def _noise_notes(section: Section) -> list[str]:
    """The noise floor of the divergence, and the cells that are below it."""
    sentences: list[str] = []
    if section.reference is None:
        return sentences
    for text in section.texts:
        floor = section.reference.record.metric("kl_noise_floor", text)
        if floor is None:
            continue
        divergences = [(cell.name, cell.record.metric("kl_mean", text)) for cell in section.quantized]
        inside = [name for name, metric in divergences if metric and metric.value <= floor.value]
        sentences.append(
            f"{text}: rounding the residual stream to bfloat16 alone makes full precision diverge by {floor.value:.4f} "
            f"nats. This shows what is negligible, not what is detectable. Cells at or below it: "
            f"{', '.join(inside) or 'none'}."
        )
    return sentences


_BY = {"accuracy": "", "perplexity": " in perplexity", "kl_mean": " in divergence"}


def _standing_notes(section: Section) -> list[str]:
    """The verdicts against full precision and the best cells, for each task and text."""
    sentences = []
    names = {cell.record.cell_id: cell.name for cell in section.quantized}
    for standing in section.standings:
        by = _BY[standing.metric]
        if standing.against_reference:
            sentences.append(f"{_with_n(standing)}: against full precision{by}: {_answers(standing, names)}.")
        if len(standing.best) > 1:
            sentences.append(
                f"{standing.task}: the best{by}, {names[standing.best[0]]}, is not significantly better than "
                f"{_listed(standing.best[1:], names)}."
            )
        elif standing.against_best and not standing.best:
            sentences.append(f"{standing.task}: no quantized cell is significantly worse than the best{by}.")
    if section.standings:
        sentences.append(
            "Better, worse or different: p below 0.05, corrected over all cells, tasks and texts of the table (Holm); "
            "tested by McNemar's mid-p on the same items, or by Student's t on the same windows of a text, allowing "
            "for correlated neighbours. Equivalent: shown to differ by less than "
            f"{section.margins.accuracy:.3g} in accuracy or {section.margins.nats:.3g} nats. "
            "Bold: the best and the cells not significantly worse; no cell is bold if that would be all of them."
        )
    return sentences


def _answers(standing: Standing, names: dict[str, str]) -> str:
    """`worse: a, b; equivalent: c; too few items to tell: d (80 % sure to detect a difference of 0.15)`."""
    parts = []
    for verdict, words in _ANSWERS.items():
        cells = [cell for cell in names if cell in standing.named(verdict)]
        if cells:
            whose = "all" if len(cells) == len(standing.against_reference) > 1 else _listed(cells, names)
            parts.append(f"{words}: {whose}")
    if standing.named("cannot tell"):
        smallest = standing.smallest_seen
        parts[-1] += (
            f" (80 % sure to detect a difference of {smallest:.2g})"
            if smallest is not None
            else " (no difference is detectable)"
        )
    return "; ".join(parts)


_ANSWERS = {
    "worse": "worse",
    "better": "better",
    "different": "different",
    "equivalent": "equivalent",
    "cannot tell": "too few items to tell",
}


def _listed(cells: Iterable[str], names: dict[str, str]) -> str:
    return ", ".join(names[cell] for cell in cells)


def _with_n(standing: Standing) -> str:
    counts = sorted({one.pairs for one in standing.against_reference.values() if one.pairs})
    if not counts:
        return standing.task
    return f"{standing.task} (n={counts[0]:,}{f' to {counts[-1]:,}' if len(counts) > 1 else ''})"


VERDICT_SIGNS = {"better": "▲", "worse": "▼", "equivalent": "≈", "cannot tell": "?"}
"""Verdict against full precision → sign in tables."""


def flips(section: Section) -> list[tuple[Cell, list[str]]]:
    """Quantized cells and their flips against full precision, one text per entry of `section.accuracies`.

    Empty if no answers were stored.
    """
    rows = []
    for cell in section.quantized:
        differences = [standing.against_reference.get(cell.record.cell_id) for standing in section.accuracies]
        texts = [
            f"−{difference.flips.to_wrong} +{difference.flips.to_right} {VERDICT_SIGNS.get(difference.verdict, '')}"
            if difference and difference.flips
            else ABSENT
            for difference in differences
        ]
        if any(text != ABSENT for text in texts):
            rows.append((cell, texts))
    return rows


def _score_notes(section: Section) -> list[str]:
    sentences = [
        f"Scores: 100 is parity with full precision (perf, infer) or with {reference_words(section.options)} (cons). A "
        "model that only guesses still gets a perf of about 70; perf > chance counts accuracies from chance."
    ]
    if any(task.until_separated is not None for record in section.records for task in record.spec.tasks):
        sentences.append(
            "perf: cells stopped early, so each score covers only the items that its cell answered; `slmquant compare` "
            "compares two cells on the items that both answered."
        )
    for title, scores in (
        ("perf", [cell.scores.perf for cell in section.cells]),
        ("perf > chance", [cell.scores.perf_above_chance for cell in section.cells]),
        ("cons", [cell.scores.cons for cell in section.quantized]),
        *(
            (f"infer on {e}", [c.engines[e].scores.infer for c in section.cells if e in c.engines])
            for e in section.engines
        ),
    ):
        sentences += [f"{title}: {reason}." for reason in _unique(score.reason or "" for score in scores) if reason]
    return sentences


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
