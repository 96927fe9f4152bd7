"""`slmquant explain`: parts make up the model, kinds make up the predictions, and what cannot be is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor
from typer.testing import CliRunner

from slmquant import api
from slmquant.analysis.explained import bucket_figures, family_figures
from slmquant.calib.calibration import NoCalibration
from slmquant.cli import app
from slmquant.diagnosis.parts import divisions
from slmquant.diagnosis.switches import Rounded, Switches
from slmquant.errors import SlmquantError
from slmquant.model.discovery.relations import discover
from slmquant.model.sources.load import identify
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.store import Store
from slmquant.store.explanations import Explanation
from slmquant.testing.tiny import tiny
from tests import invented
from tests.runs.made_up import make_data, make_model, write_text

TEXTS = ("wikitext2_test", "wikitext2_train")
OPTIONS = ("--texts", ",".join(TEXTS), "--windows", "4", "--length", "20")


def test_the_parts_of_every_division_are_disjoint_and_make_up_everything() -> None:
    model = tiny("llama", num_hidden_layers=11)
    relations, dense = discover(model), dict[str, Tensor]()
    quantized = quantize_(model, "rtn", parse("W4A8KV4E4"), NoCalibration(), dense=dense)
    switches = Switches(quantized, dense)

    for parts in divisions(switches, relations).values():
        union = Rounded()
        for part in parts.values():
            assert union - part == union
            union |= part
        assert union == switches.everything
    names = divisions(switches, relations)
    assert [*names["depth"]][:3] == ["block 0", "block 1", "blocks 2 to 3"]
    assert len(names["depth"]) == 8 + 1
    assert {"v_proj", "inputs of q_proj k_proj v_proj", "KV cache", "embed_tokens"} <= names["classes"].keys()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    make_model(folder)
    write_text(make_data(folder), "c4_train_a", 3, 3)
    return folder


@pytest.fixture(autouse=True)
def places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMQUANT_CACHE", str(folder / "cache"))
    monkeypatch.setenv("SLMQUANT_DATA", str(folder / "data"))


@pytest.fixture
def found(folder: Path) -> Explanation:
    cell = (str(folder / "model"), "rtn", "W4A8KV4E4")
    return api.explain(cell, texts=TEXTS, windows=4, length=20)


def mean(values: tuple[tuple[float, ...], ...]) -> float:
    return sum(map(sum, values)) / sum(map(len, values))


def test_parts_are_measured_alone_and_given_back(found: Explanation) -> None:
    whole = mean(found.whole)
    assert abs(mean(found.none)) < 1e-6 < whole
    of = {(part.family, part.name): part for part in found.parts}
    weights = of["operands", "weights of linears"]
    assert mean(weights.alone) > 0 and mean(weights.given_back) < whole
    for family in family_figures(found):
        assert family.sum_alone.value == pytest.approx(sum(one.alone.value for one in family.parts), rel=1e-6)
        assert 0.3 < family.sum_alone.value < 3


def test_kinds_of_every_aspect_make_up_all_predictions_and_all_of_the_divergence(found: Explanation) -> None:
    aspects = bucket_figures(found)
    assert aspects.keys() == {"token read", "rarity", "position", "reference"}
    for several in aspects.values():
        assert sum(one.predictions for one in several) == pytest.approx(1)
        assert sum(one.share.value for one in several) == pytest.approx(1)
    place = {one.name: one for one in aspects["position"]}
    assert place["0"].predictions == pytest.approx(1 / 19)
    assert place["16 to 18"].predictions == pytest.approx(3 / 19)
    read = {one.name: one for one in aspects["token read"]}
    assert read["first token"].mean.value == pytest.approx(place["0"].mean.value)


def test_the_worst_predictions_are_the_largest_divergences(found: Explanation) -> None:
    values = [one.divergence for one in found.worst]
    assert len(values) == 10
    assert values == sorted(values, reverse=True)
    assert values[0] > mean(found.whole)
    assert all(0 < one.reference.probability <= 1 and one.corpus in TEXTS for one in found.worst)


def stored(folder: Path, tmp_path: Path, scheme: str, sha256: str | None = None) -> str:
    """A store with a cell of the model, and its path."""
    model = str(folder / "model")
    spec = invented.spec("rtn", scheme, model, sha256 or identify(model).sha256)
    with Store(tmp_path / "store.sqlite") as store:
        store.put(invented.record("rtn", scheme, cell=spec))
    return str(tmp_path / "store.sqlite")


def test_a_cell_of_the_store_is_explained_by_its_label_or_first_digits(folder: Path, tmp_path: Path) -> None:
    store = stored(folder, tmp_path, "W4A8")
    words = ["explain", "rtn/W4A8", "--store", store, *OPTIONS]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "found.json")])

    assert result.exit_code == 0, result.output
    for title in ("by operand", "by class of linears", "by depth", "by position", "diverge most"):
        assert title in result.stdout
    found = Explanation.model_validate_json((tmp_path / "found.json").read_text())
    assert (found.scheme, found.compute_dtype, found.model) == ("W4A8", "bfloat16", "model")
    with Store(store, read_only=True) as results:
        words[1] = results.get("rtn/W4A8").cell_id[:6]
    again = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert again["parts"] == json.loads((tmp_path / "found.json").read_text())["parts"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rtn/W2A2"], "unknown cell 'rtn/W2A2'"),
        (["ffff"], "unknown cell 'ffff'"),
        (["rtn/W4A8"], "have changed since the cell was measured"),
        (["MODEL", "--method", "rtn"], "needs both --method and --scheme"),
        (["MODEL", "--method", "none", "--scheme", "W16A16"], "nothing to explain"),
        (["MODEL", "--method", "rtn", "--scheme", "W5"], "cannot read scheme 'W5'"),
        (["MODEL", "--method", "rtn", "--scheme", "W4A8", "--texts", "c4_train_b"], "not found"),
        (["MODEL", "--method", "rtn", "--scheme", "W4A8", "--texts", "c4_train_a"], "needs 4"),
        (["absent", "--method", "rtn", "--scheme", "W4A8"], "unknown model 'absent'"),
    ],
)
def test_what_cannot_be_is_told(folder: Path, tmp_path: Path, words: list[str], said: str) -> None:
    store = stored(folder, tmp_path, "W4A8", sha256="cd" * 32)
    given = [str(folder / "model") if word == "MODEL" else word for word in words]
    given = ["explain", given[0], *OPTIONS, *given[1:], "--store", store, "-o", str(tmp_path / "found.json")]
    result = CliRunner().invoke(app, given)

    assert result.exit_code == 2 or isinstance(result.exception, SlmquantError)
    assert said in " ".join(f"{result.output} {result.exception}".replace("│", " ").split())
    assert not (tmp_path / "found.json").exists()
