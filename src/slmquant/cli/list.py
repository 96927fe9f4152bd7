"""`slmquant list`: list the store's cells, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._output import JsonOption, print_pieces, print_table, tell
from slmquant.cli._results import ModelOption, StoreOption, filters, open_store

if TYPE_CHECKING:
    from slmquant.store import Record

SHOWN_DIGITS = 8
"""Digits of a cell id that are printed: enough to tell ten thousand cells apart."""
SHOWN_CELLS = 200
"""Lines of a table unless `--limit` asks for more."""


def command(
    store: StoreOption = None,
    model: ModelOption = None,
    method: Annotated[str | None, typer.Option("--method", help="Only cells of this method.")] = None,
    scheme: Annotated[str | None, typer.Option("--scheme", help="Only cells of this scheme.")] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", help="Only cells that ended ok, refused, failed, timeout or out_of_memory."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="List only so many cells, those that finished last; 0 for all.",
            show_default=f"{SHOWN_CELLS} in a table, all as JSON",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List measured cells; outdated ones (of older code, or of files that have changed) are listed below.

    For example:

    [dim]slmquant list[/dim]

    [dim]slmquant list --method gptq --status ok[/dim]

    [dim]slmquant list --limit 20[/dim]

    [dim]slmquant list --json | jq length[/dim]
    """
    from slmquant.store.export import json_table
    from slmquant.store.outdated import apart

    if limit is None and not json:
        limit = SHOWN_CELLS
    with open_store(store) as results:
        chosen = filters(results, model, method, scheme, status)
        left_out = max(0, results.count(**chosen) - limit) if limit else 0
        if json:
            print_pieces(json_table(results.table(limit or None, **chosen)))
        records = [] if json else results.records(limit or None, **chosen)
    if records:
        outdated = apart(records)  # whatever outdates a cell finished after it, so it is among the latest, too
        current = [record for record in records if record.cell_id not in outdated]
        _print_cells(f"cells in {results.path}", current, outdated)
        _print_cells("outdated cells", [record for record in records if record.cell_id in outdated], outdated)
    elif not json:
        tell(f"no cells match in {results.path}")
    if left_out:
        tell(f"{left_out:,} cells that finished earlier are not listed; --limit 0 lists all of them")


def _print_cells(title: str, records: list[Record], outdated: Mapping[str, str]) -> None:
    if not records:
        return
    engines = any(record.spec.engine is not None for record in records)
    print_table(
        f"{len(records)} {title}",
        ("cell", "model", "method", "scheme", *(["engine"] if engines else []), "status", "ppl", "KL", "MB",
         "finished", "reason"),
        [_line(record, engines, outdated.get(record.cell_id)) for record in records],
    )  # fmt: skip


def _line(record: Record, engines: bool, outdated: str | None) -> tuple[str, ...]:
    from slmquant.analysis.cells import text_tasks
    from slmquant.report._columns import ABSENT, BYTES_PER_MB, perplexity, significant

    text = next(iter(text_tasks([record])), None)
    ppl, divergence = (record.metric(name, text) if text else None for name in ("perplexity", "kl_mean"))
    size = record.metric("stored_bytes") or record.metric("artifact_bytes")
    return (
        record.cell_id[:SHOWN_DIGITS],
        record.spec.model,
        record.spec.method,
        record.spec.scheme,
        *([record.spec.engine or "torch"] if engines else []),
        record.status,
        perplexity(ppl.value) if ppl else ABSENT,
        significant(divergence.value) if divergence else ABSENT,
        f"{size.value / BYTES_PER_MB:.1f}" if size else ABSENT,
        f"{record.finished_at:%Y-%m-%d %H:%M}",
        "; ".join(filter(None, (outdated, record.reason))),
    )
