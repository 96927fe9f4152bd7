"""Mixture files as schemes of a plan: identified by content, found beside the plan, checked before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmquant.errors import PlanError
from slmquant.places import Places
from slmquant.progress import Silent
from slmquant.runs.plan import Plan
from slmquant.runs.plan_options import plan_of
from slmquant.runs.runner import run
from slmquant.runs.survey import SurveyJob, survey
from slmquant.schemes import parse
from slmquant.schemes.mixture_file import read_mixture
from slmquant.store import Store

LINEARS = [
    f"model.layers.{block}.{name}_proj"
    for block in range(2)
    for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
]
TYPES = {"model.embed_tokens": "W16A16", "lm_head": "W8A16", **dict.fromkeys(LINEARS, "W4A16g16")}

pytestmark = pytest.mark.usefixtures("alone")


def write_mixture(path: Path, types: dict[str, str]) -> str:
    """A mixture file; returns the name of the mixture."""
    path.write_text(json.dumps({"slmquant_mixture": 1, "weights": types}))
    return str(read_mixture(path))


def planned(folder: Path, model: Path, *lines: str, **options: object) -> Plan:
    path = folder / "plan.yaml"
    rest = ["tasks: ['wikitext2:2']", "dtype: float32", "calibration: {num_samples: 4, seq_len: 32}"]
    path.write_text("\n".join([f"models: [{model}]", *lines, *rest]))
    return plan_of(path, options, {}, None, None)[0]


def ids(plan: Plan) -> list[str]:
    return [spec.cell_id for spec in plan.cells(plan.models[0], "0", "float32")]


def test_a_file_beside_the_plan_is_a_scheme(tmp_path: Path, model: Path) -> None:
    name = write_mixture(tmp_path / "mix.json", TYPES)
    plan = planned(
        tmp_path, model, "methods: [rtn]", "schemes: [W8A8, mix.json]", "include: [{method: hqq, scheme: mix.json}]"
    )

    assert plan.schemes == ("W8A8", name)
    assert plan.include[0].scheme == name
    assert parse(name).listed == TYPES


def test_a_cell_is_the_content_of_its_file(tmp_path: Path, model: Path) -> None:
    write_mixture(tmp_path / "mix.json", TYPES)
    write_mixture(tmp_path / "copy.json", dict(reversed(TYPES.items())))
    write_mixture(tmp_path / "edited.json", TYPES | {LINEARS[0]: "W8A16g16"})
    cells = [ids(planned(tmp_path, model, "methods: [rtn]", f"schemes: [{n}.json]")) for n in ("mix", "copy", "edited")]

    assert cells[0] == cells[1]
    assert cells[0][0] == cells[2][0]  # the reference
    assert cells[0][1] != cells[2][1]


def test_a_file_can_be_excluded(tmp_path: Path, model: Path) -> None:
    write_mixture(tmp_path / "mix.json", TYPES)
    lines = ("methods: [rtn, hqq]", "schemes: [W8A8, mix.json]", "exclude: [{method: hqq, scheme: mix.json}]")

    assert len(ids(planned(tmp_path, model, *lines))) == 1 + 3


def test_an_option_names_a_file_of_the_working_directory(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plans").mkdir()
    name = write_mixture(tmp_path / "mix.json", TYPES)
    monkeypatch.chdir(tmp_path)

    assert planned(tmp_path / "plans", model, "methods: [rtn]", schemes=["mix.json"]).schemes == (name,)


def test_a_remark_says_which_name_a_file_has(tmp_path: Path, model: Path) -> None:
    name = write_mixture(tmp_path / "mix.json", TYPES)
    planned(tmp_path, model, "methods: [rtn]", "schemes: [mix.json]")

    assert f"{name} is mix.json" in plan_of(tmp_path / "plan.yaml", {}, {}, None, None)[1]


def test_what_is_wrong_with_a_file_is_told_with_the_plans_line(tmp_path: Path, model: Path) -> None:
    write_mixture(tmp_path / "mix.json", TYPES)
    (tmp_path / "wrong.json").write_text(json.dumps({"slmquant_mixture": 1, "weights": {LINEARS[0]: "Q4_9"}}))
    with pytest.raises(PlanError) as raised:
        planned(tmp_path, model, "methods: [rtn]", "schemes:", "  - mix.json", "  - wrong.json", "  - absent.json")
    wrong, absent = str(raised.value).splitlines()

    assert wrong.startswith(f"{tmp_path / 'plan.yaml'}:5: field 'schemes[1]': mixture ")
    assert LINEARS[0] in wrong and "Q4_9" in wrong
    assert absent.startswith(f"{tmp_path / 'plan.yaml'}:6: field 'schemes[2]': cannot read the mixture ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({LINEARS[-1]: None, LINEARS[-2]: None}, f"no type for {LINEARS[-2]!r} and 1 more"),
        ({"model.layers.7.mlp.up_proj": "W4A16"}, "names 'model.layers.7.mlp.up_proj', which is no linear"),
        ({LINEARS[1]: "Q4_K"}, "its 32 inputs are not a multiple of 256"),
        ({}, None),
    ],
)
def test_a_look_over_the_plan_says_what_a_mixture_lacks(
    tmp_path: Path, model: Path, data: Path, change: dict[str, str | None], said: str | None
) -> None:
    write_mixture(tmp_path / "mix.json", {n: kind for n, kind in {**TYPES, **change}.items() if kind is not None})
    plan = planned(tmp_path, model, "methods: [rtn]", "schemes: [mix.json]")
    cell = survey(SurveyJob(plan, (), (), Places(data)), Silent()).cells[1]

    if said is None:
        assert (cell.state, cell.reason) == ("to do", None)
    else:
        assert cell.state == "refused"
        assert said in (cell.reason or "")


def test_a_mixture_of_many_blocks_is_looked_over_whole(tmp_path: Path, model: Path, data: Path) -> None:
    """The sketch that is asked has two blocks, the model five."""
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(model)
    config.num_hidden_layers = 5
    LlamaForCausalLM(config).save_pretrained(model)
    types = {n.replace("layers.0", f"layers.{b}"): "W4A16g16" for n in LINEARS[:7] for b in range(5)}
    write_mixture(tmp_path / "whole.json", {**TYPES, **types})
    write_mixture(tmp_path / "part.json", TYPES)
    plan = planned(tmp_path, model, "methods: [rtn]", "schemes: [whole.json, part.json]")
    _, whole, part = survey(SurveyJob(plan, (), (), Places(data)), Silent()).cells

    assert whole.state == "to do"
    assert part.reason is not None and "and 20 more" in part.reason


def test_its_cells_run(tmp_path: Path, model: Path, data: Path) -> None:
    name = write_mixture(tmp_path / "mix.json", TYPES)
    plan = planned(tmp_path, model, "methods: [rtn]", "schemes: [mix.json]")
    with Store(tmp_path / "store.sqlite") as store:
        record = run(plan, store, data_dir=data).records[1]

    assert (record.status, record.spec.scheme) == ("ok", name)
