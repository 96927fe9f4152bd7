"""`slmquant plan`: look over a plan before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._output import DataOption, JsonOption, print_json, tell


def command(
    plan_file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Plan in YAML.", show_default=False)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look, which this command always does; `bench --plan` runs a plan.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of plans, with which editors check them.")
    ] = False,
    records: Annotated[
        list[Path] | None,
        typer.Option(help="Further stores, or files of published cells, to learn costs from.", show_default="none"),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Store that the plan would be run in.", show_default="SLMQUANT_STORE, else results/slmquant.sqlite"
        ),
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show every cell of a plan, what is done, refused or in the way, and what the rest will cost. Nothing is run.

    Costs are learned from recorded cells; what no record tells is unknown.

    Examples:
        slmquant plan plans/demo.yaml

        slmquant plan plans/demo.yaml --records results/published/demo.jsonl

        slmquant plan --schema > plan.schema.json
    """
    del dry_run
    if schema:
        from slmquant.runs.plan import schema as plan_schema

        print_json(plan_schema())
        return
    if plan_file is None:
        raise typer.BadParameter("name a plan: slmquant plan plans/demo.yaml", param_hint="FILE")
    from slmquant.cli._survey import print_survey, survey_job
    from slmquant.runs.plan_options import plan_of

    plan, remarks = plan_of(plan_file, {}, {}, None, data)
    for remark in remarks if not json else ():
        tell(remark)
    print_survey(survey_job(plan, store, data, records or ()), json)
