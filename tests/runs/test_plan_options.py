"""What a plan becomes from a file, options and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from slmquant import formats
from slmquant.calib.calibration import NoCalibration
from slmquant.errors import PlanError
from slmquant.quantization import quantize_
from slmquant.runs import defaults
from slmquant.runs.plan import Plan
from slmquant.runs.plan_file import read_plan_file
from slmquant.runs.plan_options import plan_of
from slmquant.schemes import parse

FIELDS: Mapping[str, object] = {"models": ["stories15m"], "methods": ["rtn"], "schemes": ["W8A8"]}


def planned(suite: str | None = None, tasks: list[str] | None = None) -> Plan:
    return plan_of(None, {**FIELDS, "tasks": tasks}, {"corpus": "wikitext2_train"}, suite, None)[0]


def test_named_tasks_stand_beside_those_of_a_suite_and_in_their_place() -> None:
    alone, beside = planned("demo"), planned("demo", tasks=["gsm8k:5", "piqa:200"])

    assert [str(task) for task in alone.tasks][1:] == ["arc_easy:60", "piqa:60"]
    assert [str(task) for task in beside.tasks][1:] == ["arc_easy:60", "gsm8k:5", "piqa:200"]


def test_without_either_the_demo_is_asked() -> None:
    assert planned().tasks == planned("demo").tasks
    assert [str(task) for task in planned(tasks=["piqa"]).tasks] == ["piqa"]


def test_a_calibration_that_is_no_table_is_refused() -> None:
    with pytest.raises(PlanError, match="calibration"):
        plan_of(None, {**FIELDS, "calibration": "c4"}, {}, None, None)


def test_a_corpus_that_is_none_is_told_before_anything_runs() -> None:
    with pytest.raises(PlanError, match="wikitext2_train"):
        plan_of(None, dict(FIELDS), {"corpus": "wikitext2_trian"}, None, None)


def test_tasks_of_a_plan_may_be_fields_beside_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("models: [stories15m]\ntasks: [{name: piqa, limit: 7}]\n")
    plan = plan_of(path, {}, {}, "demo", None)[0]

    assert [str(task) for task in plan.tasks][1:] == ["arc_easy:60", "piqa:7"]
    path.write_text("models: [stories15m]\ntasks: [{nam: piqa}]\n")
    with pytest.raises(PlanError, match="tasks"):
        plan_of(path, {}, {}, "demo", None)


def test_one_name_where_a_list_belongs_says_how_to_write_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("models: stories15m\n")
    with pytest.raises(PlanError, match=r"'models': write a list"):
        plan_of(path, {}, {}, None, None)


def test_a_method_is_one_whatever_its_letters_and_a_model_is_asked_once() -> None:
    plan = plan_of(None, {**FIELDS, "models": ["stories15m", "stories15m"], "methods": ["RTN", "rtn"]}, {}, None, None)[
        0
    ]

    assert (plan.models, plan.methods) == (("stories15m",), ("rtn",))


def test_a_plan_that_is_no_text_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(b"models: \xff\xfe")
    with pytest.raises(PlanError, match="not UTF-8 text"):
        read_plan_file(tmp_path / "plan.yaml")


def test_on_engines_the_defaults_are_what_their_formats_hold() -> None:
    fields = {"models": ["stories15m"], "engines": ["llamacpp", "onnxruntime", "openvino"]}
    plan = plan_of(None, fields, {"corpus": "wikitext2_train"}, "quick", None)[0]
    named = plan_of(None, {**fields, "schemes": ["W8A8"]}, {"corpus": "wikitext2_train"}, "quick", None)[0]

    assert (plan.methods, plan.schemes) == (defaults.ENGINE_METHODS, defaults.ENGINE_SCHEMES)
    assert named.schemes == ("W8A8",)


@pytest.mark.parametrize("scheme", defaults.ENGINE_SCHEMES)
@pytest.mark.parametrize("fmt", ["gguf", "onnx", "openvino"])
def test_every_engine_format_holds_the_default_schemes(fmt: str, scheme: str) -> None:
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=True,
        )
    )  # fmt: skip
    quantized = quantize_(model, "rtn", parse(scheme), NoCalibration())
    chosen = formats.load(fmt)

    assert chosen.refusal(quantized) is None
    assert all(placement.reason is None for placement in chosen.place(quantized))
