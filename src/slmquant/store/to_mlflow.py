"""Logs cells to an MLflow tracking server, one run per cell, each once.

A run has the cell's identity and settings as parameters, its metrics and the seconds of its phases as metrics, by the
names of `store.export.rows`; characters that MLflow does not take are replaced by `_`. A cell that was measured again
since gets another run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from slmquant.boundary import guarded
from slmquant.errors import StoreError, UnavailableError
from slmquant.store.export import Value, rows, settings
from slmquant.store.publication import publisher
from slmquant.store.record import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["EXPERIMENT", "Logged", "log_cells"]

EXPERIMENT = "slmquant"
"""Name of the experiment, unless `MLFLOW_EXPERIMENT_NAME` gives another."""
_CELL, _FINISHED_AT = "slmquant.cell_id", "slmquant.finished_at"
_NOT_TAKEN = re.compile(r"[^\w.\- /:]")
_LONGEST_VALUE = 6000
_PER_REQUEST = 500
_PAGE = 1000

Key = tuple[str, str]
"""Cell id and time of its end."""


@dataclass(frozen=True)
class Logged:
    """What `log_cells` did.

    Attributes:
        experiment: Name of the experiment.
        added: Number of new runs.
        there: Number of cells that were logged already.
    """

    experiment: str
    added: int
    there: int


def log_cells(records: Sequence[Record], uri: str) -> Logged:
    """Log the records that the tracking server at `uri` does not have yet.

    A run that an interruption left unfinished is deleted and logged again.

    Raises:
        UnavailableError: MLflow is not installed.
        StoreError: The server cannot be reached or refuses.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's seven take four minutes
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise UnavailableError(f"MLflow cannot be imported ({error}); pip install 'slmquant[mlflow]'") from error
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    with guarded(lambda why: f"cannot log to MLflow at {uri}: {why}", StoreError):
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if known is None else known.experiment_id
        there = {_key(run.data.tags): run.info for run in _runs(client, experiment)}
        added = 0
        publish = publisher(records)
        for record, row in zip(records, rows(records), strict=True):
            before = there.get((record.cell_id, record.finished_at.isoformat()))
            if before is not None and before.status != "RUNNING":
                continue
            if before is not None:
                client.delete_run(before.run_id)
            told = {column: publish(value) if isinstance(value, str) else value for column, value in row.items()}
            _log(client, experiment, record, told, publish(record.spec.label))
            added += 1
    return Logged(name, added, len(records) - added)


def _runs(client: MlflowClient, experiment: str) -> Iterator[Any]:  # mlflow's runs have no types
    """All runs of an experiment that have not been deleted."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _key(tags: Mapping[str, str]) -> Key:
    return tags.get(_CELL, ""), tags.get(_FINISHED_AT, "")


def _log(client: MlflowClient, experiment: str, record: Record, row: Mapping[str, Value], name: str) -> None:
    from mlflow.entities import Metric, Param

    ended = _milliseconds(record.finished_at)
    run = client.create_run(
        experiment,
        start_time=_milliseconds(record.started_at),
        tags={_CELL: record.cell_id, _FINISHED_AT: record.finished_at.isoformat()},
        run_name=name,
    )
    known = {column: value for column, value in row.items() if value is not None}
    parameters = [Param(column, str(known[column])[:_LONGEST_VALUE]) for column in settings(record) if column in known]
    metrics = [
        Metric(_NOT_TAKEN.sub("_", column.replace("[", "/").replace("]", "")), float(value), ended, 0)
        for column, value in known.items()
        if column not in settings(record) and isinstance(value, (int, float))
    ]
    client.log_batch(run.info.run_id, params=parameters)
    for start in range(0, len(metrics), _PER_REQUEST):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + _PER_REQUEST])
    client.set_terminated(run.info.run_id, "FINISHED" if record.is_finished else "FAILED", ended)


def _milliseconds(when: datetime) -> int:
    return round(when.timestamp() * 1000)
