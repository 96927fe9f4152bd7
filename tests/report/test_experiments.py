"""Tables of experiments in documents are those that the measurements make."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from slmquant.errors import StoreError
from slmquant.report.published import fill_in
from slmquant.store.experiments import Experiments, read_experiments, write_experiments
from tests import invented
from tests.analysis import test_outliers
from tests.analysis.test_operands import planted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    factorial, samples = planted([0.01, 0.08, 0.001], 12, 0.1, 0)
    experiments = Experiments(
        model="m", model_sha256="0", method="rtn", calibration=None, compute_dtype="float32", samples=samples,
        environment=invented.record("rtn", "W8A8").environment, finished_at=datetime.now(timezone.utc),
        factorials=(factorial.model_copy(update={"absent": {"embeddings": "W8A8KV8E8 leaves them in 16 bits"}}),),
    )  # fmt: skip
    write_experiments(experiments, tmp_path / "found.json")
    return tmp_path


def test_a_document_shows_shares_with_the_main_cause_first(folder: Path) -> None:
    text = fill_in("<!-- experiments found.json shares W8A8KV8E8 -->\n<!-- end -->\n", folder)

    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == "| rounded | alone, nats | all but this, nats | share | verdict |"
    assert rows[1].startswith("| activations |") and rows[1].endswith("| main cause |")
    assert rows[3].startswith("| KV cache |") and rows[3].endswith("| negligible |")
    assert "The main cause at W8A8KV8E8: activations." in text
    assert "No cell for embedding and head: W8A8KV8E8 leaves them in 16 bits." in text


def test_a_document_shows_effects_and_conditions(folder: Path) -> None:
    text = fill_in("<!-- experiments found.json effects W8A8KV8E8 -->\n<!-- end -->\n", folder)
    assert "| activations | with KV cache |" in text
    text = fill_in("<!-- experiments found.json conditions -->\n<!-- end -->\n", folder)
    assert "m, weights by rtn; windows of 512 tokens, evenly spread: 12 of text, 12 of text" in text


@pytest.mark.parametrize("wanted", ["shares W4A8", "all", ""])
def test_what_is_not_in_the_file_is_said(folder: Path, wanted: str) -> None:
    with pytest.raises(StoreError, match="expected conditions, shares W8A8KV8E8"):
        fill_in(f"<!-- experiments found.json {wanted} -->\n<!-- end -->\n", folder)


def test_a_document_shows_what_outliers_do(folder: Path) -> None:
    found = read_experiments(folder / "found.json").model_copy(
        update={
            "samples": test_outliers.SAMPLES,
            "factorials": (),
            "ablations": (test_outliers.ablation(0.7, 0.02, 0.01, noise=0.01),),
            "doses": (test_outliers.response(0.1, 0.2),),
        }
    )
    write_experiments(found, folder / "found.json")

    text = fill_in("<!-- experiments found.json ablation W16A8 -->\n<!-- end -->\n", folder)
    assert "| channels | 1 % | " in text and "| tokens | 3 % | " in text
    assert text.count("| main cause |") == text.count("| negligible |") == 2
    text = fill_in("<!-- experiments found.json doses W16A8 -->\n<!-- end -->\n", folder)
    assert "| input of | scaled | × 1/16 | × 1/4 | × 4 | × 16 | slope below 1 |" in text
    assert "| up_proj → down_proj | outliers | 0.6" in text
    assert text.count("| yes | limit |") == 1
