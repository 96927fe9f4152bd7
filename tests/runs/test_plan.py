"""What a plan's file says becomes cells, and what is wrong in it is told with file, line, field, value and remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from slmquant.errors import PlanError
from slmquant.runs.plan import Plan, make_plan, schema
from slmquant.runs.plan_file import read_plan_file
from slmquant.runs.plan_options import plan_of
from slmquant.store.combine import cells as stored_cells
from slmquant.store.record import CellSpec

FIELDS = {"models": ["tiny"], "methods": ["rtn"], "schemes": ["W8A8"], "tasks": ["wikitext2:2"]}
ROOT = Path(__file__).resolve().parents[2]


def cells(fields: Mapping[str, object], model: str = "tiny") -> list[CellSpec]:
    return make_plan({**FIELDS, **fields}).cells(model, "0" * 64, "float32")


def labels(specs: list[CellSpec]) -> list[str]:
    return [f"{spec.method} {spec.scheme}" for spec in specs]


def complaint(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(PlanError) as raised:
        plan_of(path, {}, {}, None, None)
    return str(raised.value)


class TestMatrix:
    def test_the_reference_comes_first_and_once(self) -> None:
        found = cells({"methods": ["none", "rtn"], "schemes": ["W16A16", "W8A8"]})

        assert labels(found) == ["none W16A16", "rtn W16A16", "none W8A8", "rtn W8A8"]
        assert len({cell.cell_id for cell in found}) == len(found)

    def test_only_methods_that_look_at_data_depend_on_it(self) -> None:
        def ids(num_samples: int) -> dict[str, str]:
            fields = {"methods": ["rtn", "gptq"], "calibration": {"num_samples": num_samples}}
            return {cell.method: cell.cell_id for cell in cells(fields)}

        usual, other = ids(128), ids(7)
        assert usual["rtn"] == other["rtn"]
        assert usual["gptq"] != other["gptq"]

    def test_seeds_multiply_the_cells_that_look_at_data(self) -> None:
        found = cells({"methods": ["rtn", "gptq"], "seeds": [0, 3]})

        assert labels(found) == ["none W16A16", "rtn W8A8", "gptq W8A8", "gptq W8A8"]
        assert [cell.calibration and cell.calibration.seed for cell in found] == [None, None, 0, 3]
        assert found[2] == cells({"methods": ["gptq"]})[1]  # as a plan without seeds has it

    def test_budgets_multiply_the_cells_that_learn(self) -> None:
        found = cells({"methods": ["gptq", "autoround"], "schemes": ["W4A16g16"], "budgets": ["fast", "paper"]})

        assert [(cell.method, cell.budget) for cell in found[1:]] == [
            ("gptq", None), ("autoround", "fast"), ("autoround", "paper"),
        ]  # fmt: skip

    def test_what_is_excluded_is_left_out_of_the_matrix(self) -> None:
        matrix = {"methods": ["rtn", "gptq", "gptq_mse"], "schemes": ["W8A8", "W4A16g16"]}
        found = cells({**matrix, "exclude": [{"method": "GPTQ*", "scheme": "w8a8"}, {"model": "other"}]})

        assert labels(found) == ["none W16A16", "rtn W8A8", "rtn W4A16g16", "gptq W4A16g16", "gptq_mse W4A16g16"]

    def test_a_model_of_which_nothing_is_left_is_not_run(self) -> None:
        plan = {"models": ["tiny", "small"], "exclude": [{"model": "small"}]}

        assert cells(plan, "small") == []
        assert len(cells(plan)) == 2

    def test_cells_are_included_beside_the_matrix(self) -> None:
        extra = [
            {"method": "gptq", "scheme": "W4A16g16", "calibration": {"num_samples": 7}, "seed": 5},
            {"method": "rtn", "scheme": "W8A8"},  # in the matrix already
            {"method": "rtn", "scheme": "W4A8", "models": ["small"]},
        ]
        fields = {"models": ["tiny", "small"], "include": extra, "calibration": {"num_samples": 9, "seq_len": 32}}
        found = cells(fields)

        assert labels(found) == ["none W16A16", "rtn W8A8", "gptq W4A16g16"]
        assert found[2].seed == 5
        assert found[2].calibration is not None
        assert (found[2].calibration.num_samples, found[2].calibration.seq_len) == (7, 32)
        assert labels(cells(fields, "small"))[3:] == ["rtn W4A8"]

    def test_a_plan_may_consist_of_included_cells(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.yaml"
        path.write_text("models: [stories15m]\ntasks: [piqa:5]\ninclude: [{method: rtn, scheme: W8A8}]\n")
        plan = plan_of(path, {}, {"corpus": "wikitext2_train"}, None, None)[0]

        assert labels(plan.cells("stories15m", "0", "float32")) == ["none W16A16", "rtn W8A8"]

    @pytest.mark.parametrize(("written", "size"), [("6GB", 6 * 10**9), ("1.5 gib", 3 << 29), (None, None)])
    def test_a_memory_limit_has_a_unit(self, written: str | None, size: int | None) -> None:
        assert make_plan(FIELDS | {"memory_limit": written}).memory_limit == size

    def test_a_pattern_that_matches_nothing_is_known(self) -> None:
        plan = make_plan(
            FIELDS
            | {"exclude": [{"method": "rtn"}, {"method": "gptq"}]}
            | {"include": [{"method": "rtn", "scheme": "W4A8", "models": ["small"]}]}
        )
        assert plan.unused() == ["exclude[1]", "include[0]"]

    def test_an_option_replaces_several_seeds_and_budgets(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.yaml"
        path.write_text("models: [stories15m]\ntasks: [piqa:5]\nseeds: [1, 2]\nbudgets: [fast, paper]\n")
        plan = plan_of(path, {"seed": 4, "budget": "paper"}, {"seed": 4}, None, None)[0]

        assert (plan.seeds, plan.budgets, plan.calibration.seed, plan.budget) == ((), (), 4, "paper")

    @pytest.mark.parametrize("name", ["constants_stories", "rotations"])
    def test_published_plans_ask_for_the_published_cells(self, name: str) -> None:
        file = read_plan_file(ROOT / "plans" / f"{name}.yaml")
        plan = make_plan(file.fields, file)
        published = [record.spec for record, _ in stored_cells([ROOT / "results" / "published" / f"{name}.jsonl"])]
        asked = {spec.question for model in plan.models for spec in plan.cells(model, "", published[0].compute_dtype)}

        assert asked == {spec.question for spec in published}


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"methods": ["gtpq"]}, r"'methods\[0\]': unknown method 'gtpq'. Did you mean 'gptq'"),
            ({"schemes": ["W8A8", "W4A16h64"]}, r"'schemes\[1\]'.*did you mean 'W4A16g64'"),
            ({"tasks": ["wikitex2"]}, "wikitext2"),
            ({"tasks": ["piqa:x"]}, r"'tasks\[0\]'.*the limit 'x'"),
            ({"engines": ["lamacpp"]}, "llamacpp"),
            ({"models": []}, "'models'"),
            ({"model": "x"}, "unknown field 'model'. Did you mean 'models'"),
            ({"calibration": {"num_sample": 3}}, r"'calibration.num_sample'.*'num_samples'"),
            ({"calibration": {"num_samples": 10**9}}, r"num_samples': expected 1 to 1000000 \(got 1000000000\)"),
            ({"calibration": {"corpus": "wikitext2_trian"}}, r"'calibration.corpus'.*wikitext2_train"),
            ({"dtype": "flaot32"}, "'dtype'.*did you mean 'float32'"),
            ({"budgets": ["quick"]}, r"'budgets\[0\]'.*'fast' or 'paper'"),
            ({"seeds": [-1]}, r"'seeds\[0\]'"),
            ({"seeds": [1], "calibration": {"seed": 2}}, "'seeds'.*delete one"),
            ({"budgets": ["fast"], "budget": "fast"}, "'budgets'.*delete one"),
            ({"methods": []}, "'methods'.*at least one"),
            ({"timeout_s": -1}, "'timeout_s'"),
            ({"memory_limit": 6}, "'memory_limit': expected a number with a unit, e.g. 6GB"),
            ({"memory_limit": "6"}, "'memory_limit': expected a number with a unit"),
            ({"memory_limit": "lots"}, "'memory_limit': expected a number with a unit"),
            ({"memory_limit": "20MB"}, "'memory_limit': expected at least 500 MB"),
            ({"exclude": [{}]}, r"'exclude\[0\]'.*names nothing"),
            ({"exclude": [{"method": "gtpq"}]}, r"'exclude\[0\].method'.*'gptq'"),
            ({"include": [{"method": "rtn", "sheme": "W8A8"}]}, r"'include\[0\].sheme'.*'scheme'"),
            ({"include": [{"method": "rtn"}]}, r"'include\[0\].scheme': is missing"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named_before_anything_runs(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(PlanError, match=message):
            make_plan(FIELDS | change)

    def test_everything_is_told_at_once_with_file_and_line(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.yaml"
        told = complaint(
            path,
            "models: [stories15m]\nmethods:\n  - rtn\n  - gtpq\nschemes: [W8A8]\ntasks: [piqa:5]\n"
            "calibration:\n  num_samples: 0\nbudgt: fast\n",
        ).splitlines()

        assert [line.split(" ")[0] for line in told] == [f"{path}:{line}:" for line in (4, 8, 9)]
        assert "Did you mean 'budget'" in told[2]

    def test_a_list_of_wrong_names_is_not_told_to_be_empty(self) -> None:
        with pytest.raises(PlanError) as raised:
            make_plan(FIELDS | {"tasks": ["wikitex2"]})

        assert len(raised.value.lines) == 1

    def test_an_unknown_model_is_told_with_its_line_and_the_nearest(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.yaml"
        told = complaint(path, "tasks: [piqa:5]\nmodels: [stories15m,\n  storis15m]\n")

        assert told.startswith(f"{path}:3: field 'models[1]': unknown model 'storis15m'. Did you mean 'stories15m'")

    def test_the_line_of_a_replaced_field_is_not_told(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.yaml"
        path.write_text("\nmethods: [rtn]\nmodels: [stories15m]\ntasks: [piqa:5]\n")
        with pytest.raises(PlanError) as raised:
            plan_of(path, {"methods": ["gtpq"]}, {}, None, None)

        assert str(raised.value).startswith(f"{path}: field 'methods[0]'")

    def test_a_refused_combination_keeps_its_exit_code(self) -> None:
        with pytest.raises(PlanError, match="only rounds") as raised:
            make_plan(FIELDS | {"methods": ["rtn+gptq"]})

        assert raised.value.exit_code == 3

    def test_a_field_that_is_given_twice_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.yaml"

        assert complaint(path, "models: [a]\nmethods: [rtn]\nmodels: [b]\n") == (
            f"{path}:3: field 'models' is already given in line 1; delete one"
        )

    def test_text_that_is_not_yaml_is_told_with_its_line(self, tmp_path: Path) -> None:
        assert "line 2, column 6" in complaint(tmp_path / "plan.yaml", "models: [a\ntasks: ]")

    def test_parts_that_repeat_themselves_are_read_once(self, tmp_path: Path) -> None:
        lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 11))]

        assert "unknown field 'a0'" in complaint(tmp_path / "plan.yaml", "\n".join(lines))

    def test_an_unreadable_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(PlanError, match="cannot read plan"):
            read_plan_file(tmp_path / "absent.yaml")
        (tmp_path / "list.yaml").write_text("- a\n- b\n")
        with pytest.raises(PlanError, match="holds a list"):
            read_plan_file(tmp_path / "list.yaml")


def test_a_plan_is_the_same_however_its_fields_are_given() -> None:
    plan = make_plan(FIELDS)

    assert Plan.model_validate(plan.model_dump()) == plan


def test_the_published_schema_is_that_of_this_version() -> None:
    published = json.loads((ROOT / "docs" / "plan.schema.json").read_text(encoding="utf-8"))

    assert published == json.loads(json.dumps(schema())), "run: slmquant plan --schema > docs/plan.schema.json"


@pytest.mark.parametrize("path", sorted((ROOT / "plans").glob("[!l]*.yaml")), ids=lambda path: path.stem)
def test_published_plans_name_the_schema_and_have_only_its_fields(path: Path) -> None:
    first, *_ = path.read_text(encoding="utf-8").splitlines()

    assert (path.parent / first.partition("$schema=")[2]).resolve() == ROOT / "docs" / "plan.schema.json"
    assert set(read_plan_file(path).fields) <= set(cast(dict[str, object], schema()["properties"]))
