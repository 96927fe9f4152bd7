"""What is switched off is as if the scheme had not rounded it; what is switched on is as the method made it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slmquant.calib.calibration import FreshCalibration
from slmquant.diagnosis.switches import Rounded, Switches
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.llm_int8 import OutlierSplit
from slmquant.methods.rtn import Nearest
from slmquant.model.computing.modes import FLOAT32
from slmquant.model.running.trial import Trial
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.store.experiments import Operand
from slmquant.testing.tiny import VOCABULARY, tiny

WINDOWS = torch.randint(VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))


def made(scheme: str, method: str = "rtn", recipe: Recipe | None = None, tied: bool = True) -> tuple[Trial, Switches]:
    model = tiny("llama", tie_word_embeddings=tied)
    trial, dense = Trial(model, WINDOWS, FLOAT32), dict[str, Tensor]()
    calibration = FreshCalibration(model, WINDOWS, torch.float32, Silent())
    quantized = quantize_(model, method, parse(scheme), calibration, recipe=recipe, dense=dense)
    return trial, Switches(quantized, dense)


@pytest.mark.parametrize(
    ("operand", "alone"),
    [("weights", "W4A16"), ("activations", "W16A4"), ("cache", "W16A16KV4"), ("embeddings", "W16A16E4")],
)
@pytest.mark.parametrize("tied", [True, False])
def test_an_operand_alone_is_the_scheme_that_rounds_it_alone(operand: Operand, alone: str, tied: bool) -> None:
    trial, switches = made("W4A4KV4E4", tied=tied)
    switches.set_(switches.of(operand))

    expected, _ = made(alone, tied=tied)
    torch.testing.assert_close(trial.tokens(), expected.tokens(), rtol=1e-3, atol=1e-6)
    assert float(trial.tokens().mean()) > 1e-4


def test_nothing_rounded_is_full_precision_and_everything_comes_back() -> None:
    trial, switches = made("W4A4KV4E4")
    before = trial.tokens()

    switches.set_(Rounded())
    assert float(trial.tokens().abs().max()) < 1e-5
    switches.set_(switches.everything)
    assert torch.equal(trial.tokens(), before)


@pytest.mark.parametrize("method", ["smoothquant", "quarot", "gptq"])
def test_a_weight_in_full_precision_is_that_of_the_transformed_model(method: str) -> None:
    """A method's transforms keep the function, so that nothing rounded is full precision after them, too."""
    trial, switches = made("W4A4", method)
    rounded = float(trial.tokens().mean())

    switches.set_(Rounded())
    assert float(trial.tokens().abs().max()) < 1e-4 < rounded


def test_columns_in_a_branch_stay_there() -> None:
    recipe = Recipe("split", "", "", rounding=Nearest(), correction=OutlierSplit(threshold=1.5))
    trial, switches = made("W4A4", recipe=recipe)
    rounded = float(trial.tokens().mean())

    switches.set_(Rounded())
    assert float(trial.tokens().mean()) < 1e-3 * rounded


def test_what_the_scheme_leaves_alone_has_no_part_and_cannot_be_rounded() -> None:
    trial, switches = made("W8A8")

    assert not switches.of("cache") and not switches.of("embeddings")
    assert switches.of("weights") and switches.of("activations")
    with pytest.raises(ValueError, match="no codes"):
        switches.set_(Rounded(weights=frozenset({"model.embed_tokens"})))
    assert float(trial.tokens().mean()) > 0
