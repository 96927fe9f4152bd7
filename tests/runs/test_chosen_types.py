"""Cells whose types are chosen for a number of bytes: `slmq` at `max-92MB` in a plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, LlamaForCausalLM

from slmquant import methods
from slmquant.errors import SchemeError
from slmquant.places import Places
from slmquant.progress import Silent
from slmquant.runs.inputs import Contents, Data
from slmquant.runs.plan import Plan, make_plan
from slmquant.runs.runner import run
from slmquant.runs.survey import SurveyJob, survey
from slmquant.schemes import Scheme, parse
from slmquant.store import Store
from tests.runs.made_up import write_text


def planned(model: Path, *methods_: str, scheme: str = "max-120kB") -> Plan:
    return make_plan(
        {
            "models": [str(model)],
            "methods": list(methods_),
            "schemes": [scheme],
            "tasks": ["wikitext2:2"],
            "dtype": "float32",
            "calibration": {"num_samples": 4, "seq_len": 16},
        }
    )


@pytest.fixture
def wide(model: Path, data: Path) -> Path:
    """A model whose rows fit GGUF's types, and enough text for all sets of windows."""
    config = AutoConfig.from_pretrained(model)
    config.hidden_size, config.intermediate_size = 64, 96
    LlamaForCausalLM(config).save_pretrained(model)
    write_text(data, "wikitext2_train", 2, 200)
    return model


@pytest.mark.parametrize(
    ("name", "canonical", "count"),
    [
        ("max-92MB", "max-92MB", 92_000_000),
        ("MAX-91.74mb", "max-91.74MB", 91_740_000),
        ("max-0.5GB", "max-500MB", 500_000_000),
        ("max-1500B", "max-1.5kB", 1500),
        ("max-1.000001kB", "max-1000.001B", None),
        ("max-0MB", None, None),
    ],
)
def test_a_number_of_bytes_has_one_name(name: str, canonical: str | None, count: int | None) -> None:
    if count is None:
        with pytest.raises(SchemeError, match="no whole number of bytes"):
            parse(name)
        return
    assert parse(name) == Scheme(max_bytes=count)
    assert str(parse(name)) == canonical
    assert parse(str(parse(name))) == parse(name)


def test_methods_that_cannot_try_types_say_so() -> None:
    assert methods.load("slmq").refusal(parse("max-92MB")) is None
    assert "one weight at a time" in (methods.load("quarot").refusal(parse("max-92MB")) or "")
    assert "one weight at a time" in (methods.load("autoround").refusal(parse("max-92MB")) or "")


def test_the_version_of_choosing_is_part_of_such_cells_alone() -> None:
    contents = Contents("0", "1", Data({"wikitext2_train": "2"}, {}))
    chosen, other = (dict(contents.inputs("slmq", name, (), "wikitext2_train").stages) for name in ("max-92MB", "Q4_0"))

    assert chosen.keys() - other.keys() == {"choosing"}


@pytest.mark.usefixtures("alone")
def test_a_row_says_what_was_chosen(wide: Path, data: Path, tmp_path: Path) -> None:
    plan = planned(wide, "gptq_mse")
    seen = survey(SurveyJob(plan, (), (), Places(data)), Silent()).cells[1]
    with Store(tmp_path / "store.sqlite") as store:
        record = run(plan, store, data_dir=data).records[1]

    assert seen.state == "to do"
    assert (record.status, record.spec.scheme) == ("ok", "max-120kB")
    mixture = (record.reason or "").partition("types: ")[2].partition(";")[0]
    assert parse(mixture).table is not None
    assert [phase.name for phase in record.phases] == ["load", "capture", "choose", "quantize", "evaluate"]


@pytest.mark.usefixtures("alone")
def test_too_few_bytes_are_a_refused_row(wide: Path, data: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        record = run(planned(wide, "gptq_mse", scheme="max-20kB"), store, data_dir=data).records[1]

    assert record.status == "refused"
    assert "are too few" in (record.reason or "")
