"""A mixture file is read as it was written; what is wrong with one is told with the weight's name."""

import json
from pathlib import Path

import pytest

from slmquant.errors import RefusedError, SchemeError
from slmquant.methods.common.mixed import described, specs_of
from slmquant.model.discovery.relations import discover
from slmquant.schemes import Scheme, parse
from slmquant.schemes.mixture_file import WeightType, read_mixture, write_mixture
from slmquant.testing.tiny import tiny


def write(path: Path, weights: dict[str, object]) -> Path:
    path.write_text(json.dumps({"slmquant_mixture": 1, "weights": weights}))
    return path


@pytest.fixture(scope="module")
def all_types() -> dict[str, WeightType]:
    model = tiny("llama")
    return dict(described(parse("W4A16g8E8"), discover(model), model))


def test_a_file_is_read_as_it_was_written(tmp_path: Path, all_types: dict[str, WeightType]) -> None:
    write_mixture(tmp_path / "mix.json", all_types, "tiny")
    scheme = read_mixture(tmp_path / "mix.json")

    assert scheme.listed == {name: kind.type for name, kind in sorted(all_types.items())}
    assert str(scheme) == str(Scheme.of_table({name: kind.spec for name, kind in all_types.items()}))
    assert scheme.weights == parse("W4A16g8").weights


def test_the_name_says_the_content_and_nothing_else(tmp_path: Path) -> None:
    first = read_mixture(write(tmp_path / "a.json", {"a": "Q4_0", "b": {"type": "Q8_0", "why": "head"}}))
    again = read_mixture(write(tmp_path / "b.json", {"b": "q8_0", "a": "Q4_0"}))
    other = read_mixture(write(tmp_path / "c.json", {"a": "Q4_0", "b": "Q5_0"}))

    assert first == again and str(first) == str(again) != str(other)
    with pytest.raises(SchemeError, match="--mixture"):
        parse(str(first))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": "Q4_7"}, "a.*cannot read scheme 'Q4_7'"),
        ({"a": "W4A8"}, "a.*not the format of one weight"),
        ({"a": "Q4_K_M"}, "a.*not the format of one weight"),
        ({"a": {"kind": "Q4_0"}}, "weights.a"),
        ({}, "weights"),
    ],
)
def test_a_wrong_type_is_told_with_its_weight(tmp_path: Path, weights: dict[str, object], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        read_mixture(write(tmp_path / "mix.json", weights))


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "mix.json").write_text("no JSON")
    with pytest.raises(SchemeError, match=r"mix\.json"):
        read_mixture(tmp_path / "mix.json")
    with pytest.raises(SchemeError, match=r"absent\.json"):
        read_mixture(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.layers.0.self_attn.q_prj": "Q8_0"}, "q_prj.*did you mean .*q_proj"),
        ({"model.layers.0.self_attn.q_proj": None}, "no type for 'model.layers.0.self_attn.q_proj'"),
        ({"model.layers.0.self_attn.q_proj": "Q4_K"}, "not a multiple of 256"),
        ({"model.layers.0.self_attn.q_proj": "IQ4_XS"}, "not a multiple of 256; no type of GGUF fits"),
        ({"model.layers.0.self_attn.q_proj": "W4A16g4096"}, "use groups of at most"),
        ({"model.layers.0.self_attn.q_proj": "W16A16"}, "only embedding and head"),
    ],
)
def test_a_file_of_another_model_is_refused(
    all_types: dict[str, WeightType], change: dict[str, str | None], message: str
) -> None:
    model = tiny("llama")
    types = {name: kind.type for name, kind in all_types.items()} | change
    table = {name: parse(kind).weights for name, kind in types.items() if kind is not None}
    with pytest.raises(RefusedError, match=message):
        specs_of(Scheme.of_table(table), discover(model), model)
