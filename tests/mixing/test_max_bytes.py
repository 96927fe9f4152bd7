"""`--max-bytes`: the file fits, more bytes cost less divergence, and what cannot be is told before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
from transformers import AutoConfig, LlamaForCausalLM
from typer.testing import CliRunner

from slmquant import api
from slmquant.cli import app
from slmquant.errors import RefusedError, SlmquantError
from slmquant.mixing import subject
from slmquant.mixing.choose import Choice
from slmquant.mixing.sensitivity import Sensitivity
from slmquant.mixing.swaps import Tries
from slmquant.model.sources import load
from slmquant.schemes.mixture_file import read_mixture
from slmquant.store.record import CalibrationSpec
from tests.runs.made_up import make_data, make_model, write_text

P = ParamSpec("P")
T = TypeVar("T")
SPEC = CalibrationSpec(corpus="wikitext2_train", num_samples=4, seq_len=16)
OPTIONS = ("--corpus", "wikitext2_train", "--samples", "4", "--seq-len", "16", "-q")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows fit GGUF's types, and text."""
    folder = tmp_path_factory.mktemp("max_bytes")
    model = make_model(folder)
    config = AutoConfig.from_pretrained(model)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 96, 8
    LlamaForCausalLM(config).save_pretrained(model)
    write_text(make_data(folder), "wikitext2_train", 2, 200)
    return folder


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMQUANT_CACHE", str(folder / "cache"))


def choose(folder: Path, max_bytes: int) -> Choice:
    return api.choose_mixture(str(folder / "model"), max_bytes, calibration=SPEC, data_dir=folder / "data")


def test_more_bytes_cost_less_divergence_and_are_not_exceeded(folder: Path) -> None:
    choices = [choose(folder, size) for size in (180_000, 210_000, 250_000)]

    assert all(choice.file_bytes <= size for choice, size in zip(choices, (180_000, 210_000, 250_000), strict=True))
    assert choices[0].predicted > choices[1].predicted > choices[2].predicted > 0
    assert all(choice.optimal for choice in choices)


def test_a_larger_budget_estimates_nothing(folder: Path) -> None:
    source, data = str(folder / "model"), folder / "data"
    fast, paper = (api.sensitivity(source, calibration=SPEC, budget=b, data_dir=data) for b in ("fast", "paper"))

    assert fast.error is not None and 0 < fast.error < 0.5
    assert paper.error is None
    assert fast.losses.keys() == paper.losses.keys()


def test_sensitivity_and_swaps_are_measured_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = choose(folder, 210_000)
    monkeypatch.setattr(subject, "measure_sensitivity", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(Tries, "measure", lambda *_: pytest.fail("measured again"))

    assert choose(folder, 210_000) == before


def test_classes_are_measured_and_correct_the_predictions(folder: Path) -> None:
    found = api.sensitivity(str(folder / "model"), calibration=SPEC, data_dir=folder / "data")

    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert found.classes.keys() == kinds | {"first eighth", "last eighth"}
    assert all(len(found.classes[kind].linears) == 8 for kind in kinds)
    assert len(found.classes["last eighth"].linears) == len(kinds)
    for name, losses in found.losses.items():
        assert losses["IQ4_NL"] > losses["Q5_0"] > losses["Q8_0"], name
        assert not losses.keys() & {"Q4_K", "Q6_K"}  # no row has 256 numbers


def counted(call: Callable[P, T], calls: list[object]) -> Callable[P, T]:
    """The same function, which notes each call."""

    def run(*arguments: P.args, **named: P.kwargs) -> T:
        calls.append(arguments)
        return call(*arguments, **named)

    return run


def test_the_command_writes_a_file_that_fits_and_loads_the_model_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["quantize", str(folder / "model"), "--method", "slmq", "--max-bytes", "210kB", "--format", "gguf"]
    words += ["--data", str(folder / "data"), *OPTIONS, "--json", "-o", str(tmp_path / "model.gguf")]
    loads: list[object] = []
    monkeypatch.setattr(load, "_weights", counted(load._weights, loads))
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    assert len(loads) == 1  # a second model would take as much memory again
    assert 204_000 < (tmp_path / "model.gguf").stat().st_size <= 210_000
    assert json.loads(result.stdout)["path"] == str(tmp_path / "model.gguf")


def test_the_sensitivity_command_shows_every_kind_and_writes_every_weight(folder: Path, tmp_path: Path) -> None:
    words = ["sensitivity", str(folder / "model"), "--data", str(folder / "data"), *OPTIONS[:-1]]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "sensitivity.json")])

    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("embed_tokens", "down_proj", "last eighth", "rank correlation"))
    found = Sensitivity.model_validate_json((tmp_path / "sensitivity.json").read_text())
    assert found == api.sensitivity(str(folder / "model"), calibration=SPEC, data_dir=folder / "data")


def test_a_chosen_mixture_is_a_file_that_gives_the_same_scheme(folder: Path, tmp_path: Path) -> None:
    words = ["mixture", str(folder / "model"), "--max-bytes", "210kB", "--data", str(folder / "data"), *OPTIONS]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "mix.json")])

    assert result.exit_code == 0, result.output
    assert read_mixture(tmp_path / "mix.json") == choose(folder, 210_000).scheme


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-bytes", "100kB"], "takes at least 0.16"),
        (["--max-bytes", "1GB"], "in 16 bits"),
        (["--max-bytes", "many"], "--max-bytes"),
        (["--max-bytes", "210kB", "--scheme", "Q4_0"], "both say how weights are stored"),
        (["--max-bytes", "210kB", "--method", "quarot"], "one weight at a time"),
        (["--max-bytes", "210kB", "--format", "onnx"], "size of a GGUF file"),
        (["--max-bytes", "210kB", "--format", "gguf", "--device", "cuda"], "leave --format out"),
        (["--max-bytes", "210kB", "--samples", "100", "--budget", "paper"], "264 of them beside the 100"),
        (["--max-bytes", "210kB", "--samples", "4000"], "windows"),
        (["--max-bytes", "210kB", "--samples", "150"], "72 of them beside the 150 of calibration"),
    ],
)
def test_what_cannot_be_is_told(folder: Path, tmp_path: Path, words: list[str], said: str) -> None:
    given = ["quantize", str(folder / "model"), "--method", "slmq", "--data", str(folder / "data"), *OPTIONS, *words]
    result = CliRunner().invoke(app, [*given, "-o", str(tmp_path / "out")])

    assert result.exit_code == 2 or isinstance(result.exception, SlmquantError)
    assert said in " ".join(f"{result.output} {result.exception}".replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_model_whose_rows_fit_no_type_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data(tmp_path)
    with pytest.raises(RefusedError, match=r"no type of GGUF fits .*down_proj.* 48"):
        api.choose_mixture(str(make_model(tmp_path)), 100_000, calibration=SPEC, data_dir=tmp_path / "data")
