"""A look over a plan says beforehand what a run then does, and what is in its way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from transformers import AutoConfig

from slmquant.errors import RefusedError
from slmquant.model.sources.configuration import Configuration
from slmquant.places import Places
from slmquant.progress import Silent
from slmquant.runs.plan import make_plan
from slmquant.runs.runner import run
from slmquant.runs.sketch import sketch
from slmquant.runs.survey import Survey, SurveyJob, survey
from slmquant.store import Record, Store
from slmquant.testing.method_contract import quantized
from slmquant.testing.tiny import SETTINGS, tiny

CALIBRATION = {"num_samples": 4, "seq_len": 32}


def looked(fields: Mapping[str, object], data: Path, store: Path) -> Survey:
    known: tuple[Record, ...] = ()
    if store.exists():
        with Store(store, read_only=True) as opened:
            known = tuple(opened.records())
    plan = make_plan({"tasks": ["wikitext2:2"], "dtype": "float32", "calibration": CALIBRATION, **fields})
    return survey(SurveyJob(plan, known, known, Places(data)), Silent())


def states(found: Survey) -> dict[str, tuple[str, str | None]]:
    return {f"{cell.spec.method} {cell.spec.scheme}": (cell.state, cell.reason) for cell in found.cells}


@pytest.mark.usefixtures("alone")
def test_what_is_said_beforehand_is_what_the_run_stores(model: Path, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    fields = {"models": [str(model)], "methods": ["rtn", "hqq"], "schemes": ["W8A8", "W4A16g4096"]}
    before = looked(fields, data, store)
    plan = make_plan({"tasks": ["wikitext2:2"], "dtype": "float32", "calibration": CALIBRATION, **fields})
    with Store(store) as opened:
        run(plan, opened, data_dir=data)
    after = looked(fields, data, store)

    assert [cell.spec for cell in before.cells] == [cell.spec for cell in after.cells]
    assert {name: state for name, (state, _) in states(before).items()} == {
        "none W16A16": "to do", "rtn W8A8": "to do", "hqq W8A8": "refused",
        "rtn W4A16g4096": "refused", "hqq W4A16g4096": "refused",
    }  # fmt: skip
    for name, (state, reason) in states(after).items():
        assert state == {"to do": "done", "refused": "refused"}[states(before)[name][0]]
        assert state == "done" or reason == states(before)[name][1]
    assert after.unknown == 0
    assert before.unknown == 2


def test_what_is_absent_is_in_the_way(model: Path, data: Path, tmp_path: Path) -> None:
    (data / "text" / "wikitext2_train.txt.gz").unlink()
    found = looked(
        {
            "models": [str(model), str(tmp_path / "nowhere")],
            "methods": ["rtn", "gptq"],
            "schemes": ["W8A8"],
            "exclude": [{"method": "awq"}],
            "engines": ["vllm"],
        },
        data,
        tmp_path / "store.sqlite",
    )
    problems = [str(problem) for problem in found.problems]

    assert states(found)["rtn W8A8"][0] == "blocked"  # on the model that is nowhere
    assert any("gptq" in line and "calibration: " in line for line in problems)
    assert any("nowhere" in line and "6 cells" in line for line in problems)
    assert any("vllm" in line and "not installed" in line for line in problems)
    assert found.remarks == ("exclude[0] of the plan match no cell",)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "olmo", "gpt2"])
@pytest.mark.parametrize("method", ["quarot", "smoothquant"])
def test_a_sketch_refuses_what_the_model_refuses(method: str, architecture: str) -> None:
    drawn = sketch(Configuration(tiny(architecture).config, (), None))
    assert drawn is not None
    try:
        quantized(method, "W8A8", architecture)
        expected = None
    except RefusedError as refusal:
        expected = str(refusal)

    assert drawn.refusal(method, "W8A8") == expected


def test_a_sketch_has_few_layers_of_every_kind_and_few_tokens() -> None:
    settings = {**SETTINGS["gemma3_text"], "num_hidden_layers": 18, "vocab_size": 5000}
    drawn = sketch(Configuration(AutoConfig.for_model("gemma3_text", **settings), (), None))

    assert drawn is not None
    assert len(drawn.relations.blocks) == 6
    assert drawn.model.get_input_embeddings().get_parameter("weight").shape[0] < 300


@pytest.mark.parametrize(
    ("fmt", "method", "scheme", "reason"),
    [
        ("gguf", "rtn", "W8A8", "rounds activations"),
        ("gguf", "lqer", "W4A16g16", "side branch"),
        ("compressed_tensors", "spinquant", "W8A8", "rotates activations"),
        ("gguf", "rtn", "Q4_K", "cannot be stored as .*not a multiple of 256"),
    ],
)
def test_formats_say_beforehand_what_they_cannot_hold(fmt: str, method: str, scheme: str, reason: str) -> None:
    drawn = sketch(Configuration(tiny("llama").config, (), None))

    assert drawn is not None
    refusal = drawn.format_refusal(fmt, method, scheme)
    assert refusal is not None
    assert re.search(reason, refusal)
