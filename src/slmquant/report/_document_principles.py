"""Principles in documents: the summary, or each in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from slmquant.errors import StoreError
from slmquant.principles import judged
from slmquant.principles.common.verdicts import InModel, Judged
from slmquant.report._columns import p_value
from slmquant.report._document_cells import markdown
from slmquant.report.principles import HEADS, decision_words, effect_words, prediction_words, summary, verdict_words
from slmquant.store.combine import opened

IN_FULL = "in full"


def principles(folder: Path, files: str, wanted: str) -> str:
    """What published cells say about every principle.

    Args:
        folder: Folder of the files.
        files: Their names, with wildcards.
        wanted: `in full` for the evidence of each, nothing for the summary.

    Raises:
        StoreError: No file has such a name, one cannot be read, or `wanted` is something else.
    """
    paths = sorted(folder.glob(files))
    if not paths:
        raise StoreError(f"no file {files}; expected published cells, such as results/published/*.jsonl")
    if wanted not in ("", IN_FULL):
        raise StoreError(f"cannot show principles {wanted!r}; expected {IN_FULL!r} or nothing")
    with opened(paths) as (records, read_items):
        all_judged = judged(records, read_items)
    if wanted == IN_FULL:
        return "\n".join("\n".join(_lines(one)) for one in all_judged)
    return markdown(HEADS, [[cell.replace("\n", "<br>") for cell in row] for row in summary(all_judged)])


def _lines(one: Judged) -> Iterator[str]:
    principle = one.principle
    yield f"## {one.name}\n"
    yield f"{principle.rule}\n"
    yield f"- Verdict: **{verdict_words(one)}**"
    yield f"- Predicted: {prediction_words(principle.evidence.scale, principle.prediction)}"
    yield f"- Source: {principle.source}"
    yield from (f"- Follows: {decision_words(decision)}" for decision in one.follows)
    yield ""
    measured = [of_model for of_model in one.models if of_model.found.findings]
    if measured:
        yield from _tables(one, measured)
    for exception in one.exceptions:
        yield f"Against the rule: {exception[1].label} on {exception[1].task} ({exception[0].model}).\n"
    lacking = {(lack.cells, lack.command): None for of_model in one.models for lack in of_model.found.needs}
    if lacking:
        yield "Missing:\n"
        yield from (f"- {cells}" + (f": `{command}`" if command else "") for cells, command in lacking)
        yield ""


def _tables(one: Judged, measured: Sequence[InModel]) -> Iterator[str]:
    scale = one.principle.evidence.scale
    rows = [
        (
            f"{of_model.model} ({of_model.provenance})" if of_model.provenance else of_model.model,
            of_model.verdict,
            effect_words(scale, of_model.effect, of_model.interval),
            f"{of_model.found.n} {of_model.found.counted}",
            f"{of_model.n_needed:,}" if of_model.n_needed else "",
            p_value(of_model.p_corrected),
        )
        for of_model in measured
    ]
    yield markdown(("model", "verdict", "effect [95 %]", "n", "would tell", "p (Holm)"), rows)
    evidence = [
        (finding.label, finding.task, of_model.model, effect_words(scale, finding.effect, finding.interval),
         str(finding.n), " ".join(f"`{cell[:8]}`" for cell in finding.cells))
        for of_model in measured
        for finding in of_model.found.findings
    ]  # fmt: skip
    yield markdown(("evidence", "on", "model", "effect [95 %]", "n", "cells"), evidence)
