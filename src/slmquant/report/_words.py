"""What the numbers of a section say, in sentences; what they mean; and what to know before trusting them."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from slmquant.analysis.cells import accuracy, is_reference
from slmquant.analysis.scores import ScoreOptions
from slmquant.analysis.standing import Standing
from slmquant.report._columns import ABSENT, perplexity, reference_words
from slmquant.report._headline import perplexity_of
from slmquant.report._noise import busy_notes
from slmquant.report._sections import Cell, Section
from slmquant.store.export import calibration_label
from slmquant.store.record import CalibrationSpec, CellSpec, Environment, Record

_DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "bpw",
        "Stored bits of the whole model divided by its number of weights: scales, zero points, embeddings "
        "and head included, tied weights counted once.",
    ),
    ("MB", "Stored size in 10⁶ bytes, by the same count as bpw."),
    (
        "ppl",
        "Perplexity: e to the mean negative log-likelihood of a token. It depends on text, window and "
        "tokenizer, so compare it only under one protocol. Lower is better.",
    ),
    (
        "KL",
        "Kullback–Leibler divergence from the full-precision model's next-token distribution to the "
        "quantized model's, in nats, averaged over tokens: the most sensitive measure here. 0 is identical.",
    ),
    ("KL p99", "The 99th percentile of the same divergence over tokens: how bad the bad moments are."),
    ("top-1 %", "Share of tokens for which both models rank the same token first."),
    (
        "accuracy %",
        "Share of items answered as the key says, by lm-eval's definitions: length-normalized (acc_norm) where lm-eval "
        "has it for the task, else plain (acc), or of exact answers where they are written. ± is one standard error.",
    ),
    (
        "> chance %",
        "(accuracy − chance) / (1 − chance): 0 is guessing and 100 everything right, with the error of the accuracy "
        "stretched alike.",
    ),
    (
        "flips",
        "Answers that full precision had right and the quantized model has wrong (−), and the other way round (+). "
        "▼ worse, ▲ better, ≈ equivalent within the margin, ? too few items to tell.",
    ),
    (
        "perf",
        "SLMQ_perf of the SLMQuant paper: the quadratic mean of each accuracy{and_perplexity}, relative to full "
        "precision, times 100. A small model that only guesses still scores about 70.",
    ),
    (
        "perf > chance",
        "The same of accuracies alone, counted from chance: 100 is full precision, guessing is worth nothing and less "
        "than guessing counts against. Absent where full precision is not told from chance on a task.",
    ),
    (
        "quant s",
        "Wall seconds to capture calibration statistics and to quantize; shared work in full, loading apart.",
    ),
    ("CPU s", "The same in processor seconds, over all cores; the median of three where quantizing is short."),
    (
        "added MB",
        "Highest resident memory meanwhile, above what was resident when the model was loaded, in 10⁶ bytes.",
    ),
    ("peak MB", "Highest resident memory of the cell's process up to the end of quantization, in 10⁶ bytes."),
    (
        "cons",
        "SLMQ_cons: the quadratic mean of CPU s and added MB of {cheapest}, of the same model and "
        "scheme on the same machine, relative to this cell's, times 100. Higher is cheaper.",
    ),
)


def definitions(options: ScoreOptions) -> list[tuple[str, str]]:
    """What the columns mean: title and sentence, the scores as `options` has them computed."""
    words = {
        "and_perplexity": ", and of the inverse perplexity" if options.perplexity else "",
        "cheapest": reference_words(options),
    }
    return [(title, meaning.format(**words)) for title, meaning in _DEFINITIONS]


def remarks(section: Section) -> list[str]:
    """Further sentences: where the method matters most, and how many cells ended how."""
    said = [f"Outdated, and no match for newer tables: {reason}." for reason in section.outdated]
    contest = _widest_contest(section)
    if contest:
        ranking = ", ".join(f"{cell.method} {perplexity(value)}" for value, cell in contest)
        said.append(f"Methods lie furthest apart at {contest[0][1].record.spec.scheme}: perplexity {ranking}.")
    counts = [f"{len(section.cells)} cell{'s' * (len(section.cells) != 1)} measured"]
    for status in ("refused", "failed", "timeout", "out_of_memory"):
        number = sum(record.status == status for record in section.failures)
        counts += [f"{number} {STATUS_WORDS[status]}"] if number else []
    said.append(f"{', '.join(counts)}.")
    return said


STATUS_WORDS = {
    "ok": "measured",
    "refused": "refused",
    "failed": "failed",
    "timeout": "out of time",
    "out_of_memory": "out of memory",
}


def scheme_words(record: Record) -> str:
    """`W4A16g64`, or `W4A16g64 on llamacpp`."""
    return record.spec.scheme + ("" if record.spec.engine is None else f" on {record.spec.engine}")


def notes(section: Section) -> list[str]:
    """What a reader must know of this table: protocols, subsets, dtype, machine, provenance, scores."""
    return [
        *_model_notes(section),
        *_protocol_notes(section),
        *_noise_notes(section),
        *_standing_notes(section),
        *_unique(machine_words(record.environment) for record in section.records),
        *_score_notes(section),
        *busy_notes(section),
    ]


def machine_words(environment: Environment) -> str:
    """One line: processor, threads, memory, system, versions."""
    where = f"{environment.cpu}, {environment.threads} of {environment.cores} cores"
    where += f", {environment.gpu}" if environment.gpu else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(environment.versions.items()))
    return f"Machine: {where}, {environment.memory_bytes / 1e9:.0f} GB, {environment.platform}; {versions}."


def plans(section: Section) -> list[str]:
    """The YAML plans that measure these cells again: one for each seed, calibration set and budget among them."""
    groups: dict[_Setting, list[CellSpec]] = {}
    quantized = [r.spec for r in section.records if not is_reference(r) and r.spec.engine is None]
    sets = {spec.seed: spec.calibration for spec in quantized if spec.calibration}
    budgets = {spec.seed: spec.budget for spec in quantized if spec.budget}
    for spec in quantized:  # a cell that needs no calibration or budget goes with one that has some
        setting = (spec.seed, spec.calibration or sets.get(spec.seed), spec.budget or budgets.get(spec.seed))
        groups.setdefault(setting, []).append(spec)
    return [_plan(setting, specs, section.engines) for setting, specs in groups.items()]


_Setting = tuple[int, CalibrationSpec | None, str | None]
"""Seed, calibration set and budget of learning."""


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
    """Perplexities and cells of the scheme at which methods differ most, best first."""
    by_scheme: dict[str, list[tuple[float, Cell]]] = {}
    for cell in section.quantized:
        value = perplexity_of(cell, section)
        if value is not None:
            by_scheme.setdefault(cell.record.spec.scheme, []).append((value, cell))
    contests = [sorted(cells, key=lambda pair: pair[0]) for cells in by_scheme.values() if len(cells) > 1]
    return max(contests, key=lambda cells: cells[-1][0] / cells[0][0], default=[])


def _model_notes(section: Section) -> list[str]:
    said = []
    for card in dict.fromkeys(record.model for record in section.records if record.model):
        said.append(
            f"Model: {section.model}, {card.architecture}, {card.parameters / 1e6:,.1f} million parameters, "
            f"{card.embedding_share:.0%} of them in embeddings and head; weights: {card.provenance}."
        )
    spec = section.records[0].spec
    seeds = ", ".join(_unique(str(record.spec.seed) for record in section.records))
    products = "" if spec.compute_dtype == "float32" else f", products of linears in {spec.compute_dtype}"
    said.append(f"Evaluated in float32{products}, on {spec.device}; seed {seeds}.")
    labels = _unique(calibration_label(r.spec.calibration) or "" for r in section.records)
    calibrations = [label for label in labels if label]
    if calibrations:
        said.append(f"Calibration, where a method looks at data: {'; '.join(calibrations)}.")
    return said


def _protocol_notes(section: Section) -> list[str]:
    said = []
    for text in section.texts:
        metrics = [m for cell in section.cells if (m := cell.record.metric("perplexity", text))]
        said += _unique(
            f"{text}: {m.protocol or 'protocol not stated'}{f', {m.n:,} tokens' if m.n else ''}." for m in metrics
        )
    for task in section.tasks:
        metrics = [m for cell in section.cells if (m := accuracy(cell.record, task))]
        said += _unique(
            f"{task}: {m.name}{f' on {m.n:,} items' if m.n else ''}, ± one standard error." for m in metrics
        )
    return said


def _noise_notes(section: Section) -> list[str]:
    """How far full precision in its usual form is from itself, and which cells are as close."""
    said: list[str] = []
    if section.reference is None:
        return said
    for text in section.texts:
        floor = section.reference.record.metric("kl_noise_floor", text)
        if floor is None:
            continue
        found = [(cell.name, cell.record.metric("kl_mean", text)) for cell in section.quantized]
        inside = [name for name, metric in found if metric and metric.value <= floor.value]
        said.append(
            f"{text}: full precision with its residual stream rounded to bfloat16 diverges from itself by "
            f"{floor.value:.4f} nats, a yardstick of what matters and no limit of what can be told apart; as close as "
            f"that: {', '.join(inside) or 'none'}."
        )
    return said


_BY = {"accuracy": "", "perplexity": " in perplexity", "kl_mean": " in divergence"}


def _standing_notes(section: Section) -> list[str]:
    """The three answers on each task and text: who differs from full precision, who does not, and who may."""
    said = []
    names = {cell.record.cell_id: cell.name for cell in section.quantized}
    for standing in section.standings:
        by = _BY[standing.metric]
        if standing.against_reference:
            said.append(f"{_with_n(standing)}: against full precision{by}: {_answers(standing, names)}.")
        if len(standing.best) > 1:
            said.append(
                f"{standing.task}: the best{by}, {names[standing.best[0]]}, is not told apart from "
                f"{_listed(standing.best[1:], names)}."
            )
        elif standing.against_best and not standing.best:
            said.append(f"{standing.task}: no quantized cell is told apart from the best{by}.")
    if section.standings:
        said.append(
            "Different: p below 0.05 over all cells, tasks and texts of the table (Holm), by McNemar's mid-p on the "
            "same items or Student's t on the same windows of a text, neighbours taken as alike. Equivalent: shown to "
            f"differ by less than {section.margins.accuracy:.3g} in accuracy or {section.margins.nats:.3g} nats. "
            "Bold: the best and what is not told apart from it, nothing where nothing is."
        )
    return said


def _answers(standing: Standing, names: dict[str, str]) -> str:
    """`worse: a, b; equivalent: c; too few items to tell: d (a loss of 0.15 would show in four of five tries)`."""
    parts = []
    for verdict, words in _ANSWERS.items():
        cells = [cell for cell in names if cell in standing.named(verdict)]
        if cells:
            whose = "all" if len(cells) == len(standing.against_reference) > 1 else _listed(cells, names)
            parts.append(f"{words}: {whose}")
    if standing.named("cannot tell"):
        seen = standing.smallest_seen
        parts[-1] += f" (80 % sure to see a difference of {seen:.2g})" if seen is not None else " (none would be seen)"
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
"""How a cell stands against full precision, in one character."""


def flips(section: Section) -> list[tuple[Cell, list[str]]]:
    """Quantized cells with their flips against full precision, one text for each of `section.accuracies`.

    Empty where no answers were kept.
    """
    rows = []
    for cell in section.quantized:
        found = [standing.against_reference.get(cell.record.cell_id) for standing in section.accuracies]
        texts = [
            f"−{one.flips.to_wrong} +{one.flips.to_right} {VERDICT_SIGNS.get(one.verdict, '')}"
            if one and one.flips
            else ABSENT
            for one in found
        ]
        if any(text != ABSENT for text in texts):
            rows.append((cell, texts))
    return rows


def _score_notes(section: Section) -> list[str]:
    said = [
        f"Scores: 100 is parity, with full precision for perf and infer, with {reference_words(section.options)} for "
        "cons. A model that only guesses still gets about 70 of perf; perf > chance counts accuracies from chance."
    ]
    if any(task.until_separated is not None for record in section.records for task in record.spec.tasks):
        said.append(
            "perf: cells stopped as soon as they were told apart, so each score is over the items that its cell was "
            "asked; `slmquant compare` holds two cells against each other on those that both answered."
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
        said += [f"{title}: {reason}." for reason in _unique(score.reason or "" for score in scores) if reason]
    return said


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
