"""Cells in MLflow: one run each, logged once, with names and numbers as they are stored."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slmquant.cli._app import run
from slmquant.store import Store
from slmquant.store.to_mlflow import EXPERIMENT, log_cells
from tests import invented


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking server in a folder."""
    pytest.importorskip("mlflow", reason="MLflow is not installed; pip install 'slmquant[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return (tmp_path / "runs").as_uri()


def logged(uri: str, experiment: str = EXPERIMENT) -> dict[str, tuple[dict[str, str], dict[str, float], str]]:
    """Cell id → parameters, metrics, status."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len({run.data.params["cell_id"] for run in runs}) == len(runs)
    return {run.data.params["cell_id"]: (run.data.params, run.data.metrics, run.info.status) for run in runs}


def test_a_run_per_cell_has_its_settings_and_numbers(uri: str) -> None:
    records = invented.benchmark()
    done = log_cells(records, uri)
    runs = logged(uri)

    assert (done.added, done.there) == (len(records), 0) and set(runs) == {record.cell_id for record in records}
    record = next(record for record in records if record.spec.method == "gptq" and record.status == "ok")
    parameters, metrics, status = runs[record.cell_id]
    assert (parameters["method"], parameters["scheme"], status) == ("gptq", record.spec.scheme, "FINISHED")
    perplexity = record.metric("perplexity", invented.TEXT)
    assert perplexity is not None
    assert metrics[f"perplexity/{invented.TEXT}"] == pytest.approx(perplexity.value)
    assert metrics[f"perplexity/{invented.TEXT}_stderr"] == pytest.approx(perplexity.stderr)
    assert {runs[failed.cell_id][2] for failed in records if not failed.is_finished} <= {"FAILED"}


def test_a_cell_is_logged_once_and_again_only_if_it_was_measured_again(uri: str) -> None:
    from mlflow import MlflowClient

    first, second, *_ = invented.benchmark()
    assert log_cells([first], uri).added == 1
    again = log_cells([first, second], uri)
    assert (again.added, again.there) == (1, 1)
    later = first.model_copy(update={"finished_at": second.finished_at.replace(year=2030)})
    assert log_cells([later], uri).added == 1

    client = MlflowClient(tracking_uri=uri)
    assert len(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])) == 3


def test_a_run_that_was_interrupted_is_logged_again_whole(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    record = invented.benchmark()[0]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log_cells([record], uri)
    assert log_cells([record], uri).added == 1
    assert logged(uri)[record.cell_id][2] == "FINISHED"


def test_the_command_logs_a_store_and_says_so(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        for record in invented.benchmark():
            store.put(record, ())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")

    for says in (f"{len(invented.benchmark())} cells logged, 0 there already", "0 cells logged"):
        assert run(["merge", str(tmp_path / "results.sqlite"), "--mlflow", uri]) == 0
        assert says in capsys.readouterr().err
    assert len(logged(uri, "mine")) == len(invented.benchmark())


def test_a_server_that_cannot_be_used_is_an_error_in_one_line(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(tmp_path / "results.sqlite") as store:
        store.put(invented.benchmark()[0], ())

    assert run(["merge", str(tmp_path / "results.sqlite"), "--mlflow", "nonsense://x"]) == 8
    assert "cannot log to MLflow at nonsense://x" in capsys.readouterr().err


def test_without_mlflow_a_line_says_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with Store(tmp_path / "results.sqlite") as store:
        store.put(invented.benchmark()[0], ())

    assert run(["merge", str(tmp_path / "results.sqlite"), "--mlflow", "http://localhost:1"]) == 5
    assert "pip install 'slmquant[mlflow]'" in capsys.readouterr().err


def test_a_merge_to_nowhere_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["merge", str(tmp_path / "results.sqlite")]) == 2
    assert "--output FILE or --mlflow URI" in " ".join(capsys.readouterr().err.split())
