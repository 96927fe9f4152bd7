"""`slmquant bench`: quantize, measure, store and report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from slmquant.bounds import LARGEST_SEED, LONGEST_S, LONGEST_WINDOW, MOST_SAMPLES, SHORTEST_WINDOW
from slmquant.cli._names import split_names
from slmquant.cli._output import DataOption, JsonOption, QuietOption, err_console, print_json, shown, tell
from slmquant.cli._results import CostPerHourOption
from slmquant.cli._sweep import Sweep, live_view
from slmquant.errors import FAILED_CELLS, INTERRUPTED
from slmquant.interruption import recognised
from slmquant.runs import defaults

if TYPE_CHECKING:
    from slmquant.analysis.scores import ScoreOptions
    from slmquant.analysis.standing import Answers
    from slmquant.runs.inputs import Data
    from slmquant.runs.plan import Plan
    from slmquant.runs.runner import RunResult
    from slmquant.store import Record


def command(
    models: Annotated[
        list[str] | None, typer.Argument(help="Model sources: names, hub ids, folders, GGUF files.")
    ] = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Plan in YAML; options given here replace its fields.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated methods or combinations a+b; or all.",
            show_default=f"{','.join(defaults.METHODS)}; on engines {','.join(defaults.ENGINE_METHODS)}",
        ),
    ] = None,
    schemes: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated scheme names, or mixture files (.json).",
            show_default=f"{','.join(defaults.SCHEMES)}; on engines {','.join(defaults.ENGINE_SCHEMES)}",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Comma-separated tasks, each name or name:limit.", show_default=f"suite {defaults.SUITE}"),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Suite of tasks, added to --tasks; `slmquant tasks` lists suites.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Calibration corpus.", show_default="WikiText-2's train split if available")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, max=MOST_SAMPLES, help="Number of calibration windows.", show_default="128")
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            min=SHORTEST_WINDOW, max=LONGEST_WINDOW, help="Tokens per calibration window.", show_default="512"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="Random seed.", show_default="0")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Compute dtype of evaluation: auto, float32, bfloat16 (linears) or bfloat16_all (attention and head, "
            "too).",
            show_default="auto",
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Learning budget of methods that learn: fast or paper.", show_default="fast")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device: cpu, cuda, ...", show_default="cpu")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=LONGEST_S,
            help="Time limit of a cell, or of a step on an engine, in seconds.",
            show_default="none; 300 on engines",
        ),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory limit of a cell, or of an engine, with a unit, e.g. 6GB; a cell that exceeds it ends as "
            "out_of_memory.",
            show_default="none",
        ),
    ] = None,
    until_separated: Annotated[
        float | None,
        typer.Option(
            metavar="CONFIDENCE",
            help="Evaluate items in random order and stop once a model's cells differ with this confidence, e.g. 0.95.",
            show_default="evaluate all items",
        ),
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated engines to measure every cell on, after export; see `slmquant engines`.",
            show_default="none",
        ),
    ] = None,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Where cells run: on this machine, or side by side on a Ray cluster."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Head of the Ray cluster, of which this machine is a part.",
            show_default="the cluster of this machine; without one, this machine alone",
        ),
    ] = None,
    data: DataOption = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Result store to write.", show_default="SLMQUANT_STORE or results/slmquant.sqlite"),
    ] = None,
    report: Annotated[Path, typer.Option("--output", "-o", "--report", help="Folder for the report's files.")] = Path(
        "results/report"
    ),
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show every cell, its state and its expected cost, as `plan` does; run nothing."
        ),
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    cost_per_hour: CostPerHourOption = None,
) -> None:
    """Quantize models with several methods and schemes under identical conditions; measure, store and report.

    Each cell (one model, method and scheme) runs in its own process and ends as a row of the store, even if it fails.
    Ctrl-C stops it, and repeating the command continues where it stopped. It uses all cores; set OMP_NUM_THREADS=1 to
    use one.

    Examples:
        slmquant bench smollm2-135m-instruct --suite demo

        slmquant bench smollm2-135m-instruct --methods rtn,gptq --schemes W4A16g64,W3A16g64 --tasks wikitext2:10

        slmquant bench --plan plans/demo.yaml

        slmquant bench smollm2-135m-instruct --tasks piqa,arc_easy --until-separated 0.95

        slmquant bench --plan plans/demo.yaml --executor ray --address 192.0.2.1:6379
    """
    if address is not None and executor != "ray":
        raise typer.BadParameter("an address is that of a Ray cluster; add --executor ray", param_hint="--address")
    _bench(
        models,
        plan_file,
        {"methods": methods, "schemes": schemes, "tasks": tasks, "engines": engines},
        {
            "dtype": dtype,
            "device": device,
            "timeout_s": timeout,
            "memory_limit": memory_limit,
            "seed": seed,
            "budget": budget,
            "until_separated": until_separated,
        },
        {"corpus": corpus, "num_samples": samples, "seq_len": seq_len, "seed": seed},
        suite,
        data,
        (executor, address),
        store,
        report,
        json,
        quiet,
        cost_per_hour,
        dry_run,
    )


def _bench(
    models: list[str] | None,
    plan_file: Path | None,
    lists: Mapping[str, str | None],
    values: Mapping[str, object],
    calibration: Mapping[str, object],
    suite: str | None,
    data: Path | None,
    where: tuple[Literal["local", "ray"], str | None],
    store: Path | None,
    report: Path,
    json: bool,
    quiet: bool,
    cost_per_hour: float | None,
    dry_run: bool,
) -> None:
    """Run the plan of a file and options, and write its report.

    Args:
        models: Model sources; None if the plan's file names them.
        plan_file: The plan's file.
        lists: Fields of the plan that are given as comma-separated names.
        values: Other fields of the plan.
        calibration: Fields of its calibration set.
        suite: Suite of tasks.
        data: Local folder of data.
        where: The executor, and the address of its cluster.
        store: The store to write.
        report: Folder for the report's files.
        json: Whether to print JSON.
        quiet: Whether to print no progress.
        cost_per_hour: Money per hour of the machine; None for no column of costs.
        dry_run: Whether to look over the plan only.

    Raises:
        typer.Exit: A cell failed, or the run was interrupted.
    """
    from slmquant.analysis.scores import ScoreOptions
    from slmquant.cli._survey import print_survey, survey_job, tell_problems
    from slmquant.files import make_folder
    from slmquant.runs.plan_options import plan_of
    from slmquant.store import default_store_path
    from slmquant.store.logs import logs_folder

    if not models and plan_file is None:
        raise typer.BadParameter(
            "name at least one model, or a plan: slmquant bench smollm2-135m-instruct, or slmquant bench --plan FILE "
            "(`slmquant models` lists models by name)",
            param_hint="MODELS",
        )
    named = {field: None if names is None else split_names(names) for field, names in lists.items()}
    plan, remarks = plan_of(plan_file, {"models": models, **named, **values}, calibration, suite, data)
    for remark in remarks if not quiet else ():
        tell(remark)
    store = store or default_store_path()
    job = survey_job(plan, store, data)
    if dry_run:
        print_survey(job, json)
        return
    make_folder(report)
    hashes = None if quiet else tell_problems(job)
    result, answers = _measured(plan, store, data, hashes, where, quiet)
    _write(result.records, answers, report, json, quiet, ScoreOptions(cost_per_hour=cost_per_hour))
    if result.failed:
        logs = f"; their logs are in {shown(logs_folder(store))}" if logs_folder(store).is_dir() else ""
        err_console.print(
            f"[bold red]{len(result.failed)} of {len(result.records)} cells failed;[/bold red] "
            f"`slmquant list` shows why, and the same command tries them again{logs}",
            soft_wrap=True,
        )
        raise typer.Exit(FAILED_CELLS)


def _measured(
    plan: Plan,
    store: Path,
    data: Path | None,
    hashes: Data | None,
    where: tuple[Literal["local", "ray"], str | None],
    quiet: bool,
) -> tuple[RunResult, Answers]:
    """Run a plan; returns its cells and their answers to single items.

    Raises:
        typer.Exit: The run was interrupted.
    """
    from slmquant.runs.executors.choice import open_executor
    from slmquant.runs.runner import run
    from slmquant.store import Store

    sweep = Sweep()
    try:
        with (
            recognised(),
            Store(store) as opened,
            live_view(sweep, quiet) as view,
            open_executor(*where, view) as executor,
        ):
            result = run(plan, opened, data_dir=data, progress=view, tell=view.tell, executor=executor, data=hashes)
            return result, {record.cell_id: opened.items(record.cell_id) for record in result.records}
    except KeyboardInterrupt:
        tell(f"interrupted: {sweep.summary}; go on with")
        tell(f"  {shlex.join(['slmquant', *sys.argv[1:]])}")
        raise typer.Exit(INTERRUPTED) from None


def _write(
    records: Sequence[Record], answers: Answers, folder: Path, json: bool, quiet: bool, options: ScoreOptions
) -> None:
    """Write the report's files into `folder`, and print its table, or JSON."""
    from slmquant.report.files import as_json, write_report_csv, write_report_json
    from slmquant.report.page import write_page

    written = [write(records, folder) for write in (write_report_csv, write_report_json)]
    written.append(write_page(records, folder, options, answers))
    if json:
        print_json(as_json(records))
    elif not quiet:
        _print_results(records, answers, options)
        tell(f"wrote {', '.join(str(path) for path in written)}")


def _print_results(records: Sequence[Record], answers: Answers, options: ScoreOptions) -> None:
    from slmquant.cli._output import console
    from slmquant.report.terminal import print_report

    print_report(records, console, options, answers)
