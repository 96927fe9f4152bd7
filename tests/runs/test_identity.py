"""Whatever decides a number is in its name: what is corrected is measured again, and old numbers are never shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from slmquant import versions
from slmquant.model.sources.identity import config_sha256, key_of, tokenizer_sha256
from slmquant.places import Places
from slmquant.runs import runner
from slmquant.runs.plan import make_plan
from slmquant.runs.rows import Event
from slmquant.runs.runner import RunResult, run
from slmquant.store import Store
from slmquant.store.outdated import apart
from tests.runs.made_up import write_text
from tests.tasks.made_up import arc_rows, write_rows

pytestmark = pytest.mark.usefixtures("alone")


def edit_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def bench(model: Path, data: Path, store: Path, said: list[str] | None = None) -> RunResult:
    plan = make_plan(
        {
            "models": [str(model)],
            "methods": ["rtn", "gptq"],
            "schemes": ["W4A16g16"],
            "tasks": ["wikitext2:2", "arc_easy:4"],
            "calibration": {"num_samples": 4, "seq_len": 32},
            "dtype": "float32",
        }
    )
    with Store(store) as opened:
        return run(
            plan, opened, data_dir=data, tell=lambda event: said.append(event.text) if said is not None else None
        )


def figures(result: RunResult) -> dict[tuple[str, str, str | None], float]:
    return {
        (record.spec.method, metric.name, metric.task): metric.value
        for record in result.records
        for metric in record.metrics
        if metric.task is not None
    }


def rotate_faster(model: Path, data: Path) -> None:
    del data
    rope = json.loads((model / "config.json").read_text())["rope_parameters"]
    edit_json(model / "config.json", rope_parameters=rope | {"rope_theta": 100.0})


def forget_a_merge(model: Path, data: Path) -> None:
    del data
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:-5]
    (model / "tokenizer.json").write_text(json.dumps(content))


def correct_the_text(model: Path, data: Path) -> None:
    del model
    write_text(data, "wikitext2_test", 7)


def correct_the_rows(model: Path, data: Path) -> None:
    del model
    write_rows(data, "arc_easy", "test", arc_rows(5, 12))


def correct_the_calibration(model: Path, data: Path) -> None:
    del model
    write_text(data, "wikitext2_train", 7)


@pytest.mark.parametrize(
    ("correct", "told", "again"),
    [
        (rotate_faster, "the model's configuration", {"none", "rtn", "gptq"}),
        (forget_a_merge, "the tokenizer", {"none", "rtn", "gptq"}),
        (correct_the_text, "the data of wikitext2", {"none", "rtn", "gptq"}),
        (correct_the_rows, "the data of arc_easy", {"none", "rtn", "gptq"}),
        (correct_the_calibration, "the calibration text", {"gptq"}),
    ],
)
def test_what_was_corrected_is_measured_again_as_if_nothing_had_been_kept(
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    correct: Callable[[Path, Path], None],
    told: str,
    again: set[str],
) -> None:
    first = bench(model, data, tmp_path / "one.sqlite")
    correct(model, data)
    said: list[str] = []
    second = bench(model, data, tmp_path / "one.sqlite", said)
    monkeypatch.setattr(runner, "Places", partial(Places, cache_dir=tmp_path / "fresh cache"))
    fresh = bench(model, data, tmp_path / "fresh.sqlite")

    assert {record.status for record in (*first.records, *second.records)} == {"ok"}
    assert second.skipped == 3 - len(again)
    assert figures(second) == figures(fresh) != figures(first)
    assert any("measuring again" in text and told in text for text in said)
    with Store(tmp_path / "one.sqlite") as store:
        outdated = apart(store.records())
        assert len(store.records()) == 3 + len(again)
        assert {store.get(cell).spec.method for cell in outdated} == again
        assert all(told in reason for reason in outdated.values())
        assert store.get("gptq/W4A16g16").cell_id == second.records[-1].cell_id


def test_what_changes_no_number_changes_no_name(model: Path, data: Path, tmp_path: Path) -> None:
    bench(model, data, tmp_path / "one.sqlite")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9.9"}, indent=7))
    (model / "README.md").write_text("A model.")
    said: list[str] = []

    assert bench(model, data, tmp_path / "one.sqlite", said).skipped == 3
    assert not any("again" in text for text in said)


def test_rows_of_an_older_method_are_measured_again_and_those_of_others_are_not(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(model, data, tmp_path / "one.sqlite")
    monkeypatch.setattr(versions, "METHODS", {**versions.METHODS, "gptq": 99})
    said: list[str] = []
    second = bench(model, data, tmp_path / "one.sqlite", said)

    assert second.skipped == 2
    assert any("'gptq' (version 1, now 99)" in text for text in said)
    with Store(tmp_path / "one.sqlite") as store:
        assert len(store.records(method="gptq")) == 2
        (reason,) = apart(store.records()).values()
    assert "gptq" in reason


def test_statistics_are_kept_under_everything_that_decides_them(model: Path, data: Path) -> None:
    keys = [key_of(str(model))]
    for correct in (rotate_faster, forget_a_merge):
        correct(model, data)
        keys.append(key_of(str(model)))

    assert len(set(keys)) == 3
    assert key_of(str(model), "0" * 64) == key_of("nowhere", "0" * 64) == "0" * 64


def test_a_chat_template_and_generation_settings_count(model: Path) -> None:
    before = config_sha256(model), tokenizer_sha256(model)
    edit_json(model / "generation_config.json", eos_token_id=[1, 2])
    (model / "chat_template.jinja").write_text("{{ messages }}")
    after = config_sha256(model), tokenizer_sha256(model)

    assert before[0] != after[0] and before[1] != after[1]


def test_data_that_cannot_be_had_is_a_failed_row_and_found_later(model: Path, data: Path, tmp_path: Path) -> None:
    text = data / "text" / "wikitext2_train.txt.gz"
    content = text.read_bytes()
    text.unlink()
    without = bench(model, data, tmp_path / "one.sqlite")
    text.write_bytes(content)

    assert [record.status for record in without.records] == ["ok", "ok", "failed"]
    assert [record.status for record in bench(model, data, tmp_path / "one.sqlite").records] == ["ok"] * 3


def other_weights(model: Path, data: Path) -> None:
    del data
    tensors = load_file(model / "model.safetensors")
    save_file({name: value * 1.5 for name, value in tensors.items()}, model / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "methods", "said"),
    [
        (other_weights, ("rtn", "gptq"), "the weights of .* changed during the run"),
        (rotate_faster, ("rtn", "gptq"), "the configuration of .* changed"),
        (forget_a_merge, ("rtn", "gptq"), "the tokenizer of .* changed"),
        (correct_the_calibration, ("gptq",), "the text wikitext2_train changed"),
    ],
)
def test_what_changes_between_planning_and_a_cell_is_never_measured_under_the_old_name(
    model: Path, data: Path, tmp_path: Path, change: Callable[[Path, Path], None], methods: tuple[str, ...], said: str
) -> None:
    def tell(event: Event) -> None:
        if event.record is not None and event.record.spec.method == "none":  # the first cell, which is whole
            change(model, data)

    fields = {"models": [str(model)], "methods": ["rtn", "gptq"], "schemes": ["W4A16g16"], "tasks": ["wikitext2:2"]}
    plan = make_plan(fields | {"calibration": {"num_samples": 4, "seq_len": 32}, "dtype": "float32"})
    with Store(tmp_path / "store.sqlite") as store:
        first = {record.spec.method: record for record in run(plan, store, data_dir=data, tell=tell).records}
        again = run(plan, store, data_dir=data)

    assert first["none"].status == "ok"
    for method in methods:
        assert first[method].status == "failed" and re.search(said, first[method].reason or "")
    assert all(record.status == "ok" for method, record in first.items() if method not in methods)
    assert {record.status for record in again.records} == {"ok"}
