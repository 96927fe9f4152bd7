"""No token of one set is in another, and calibration is what the same set is everywhere else."""

from pathlib import Path

import pytest
import torch

from slmquant.calib.cached import CachedCalibration
from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.texts import GATE_WINDOWS, draw_texts
from slmquant.errors import DataError
from slmquant.model.sources.load import load
from slmquant.progress import Silent
from slmquant.store.record import CalibrationSpec
from slmquant.testing.tiny import tiny
from tests.runs.made_up import make_data, make_model

SPEC = CalibrationSpec(corpus="wikitext2_train", num_samples=5, seq_len=16, seed=3)


def test_windows_of_all_sets_are_different_windows(tmp_path: Path) -> None:
    loaded = load(str(make_model(tmp_path)))
    given = CachedCalibration(SPEC, None, loaded, make_data(tmp_path))
    texts = draw_texts(given, 7)

    assert (len(texts.calibration), len(texts.learning), len(texts.gate)) == (5, 7, GATE_WINDOWS)
    every = CachedCalibration(
        SPEC.model_copy(update={"num_samples": 5 + 7 + GATE_WINDOWS}), None, loaded, tmp_path / "data"
    )
    assert torch.equal(torch.cat([texts.calibration, texts.gate, texts.learning]), every.windows)


def test_the_gate_does_not_depend_on_how_much_is_learned_from(tmp_path: Path) -> None:
    given = CachedCalibration(SPEC, None, load(str(make_model(tmp_path))), make_data(tmp_path))

    assert torch.equal(draw_texts(given, 2).gate, draw_texts(given, 9).gate)


def test_text_that_is_too_short_is_said_to_be(tmp_path: Path) -> None:
    loaded = load(str(make_model(tmp_path)))
    given = CachedCalibration(SPEC, None, loaded, make_data(tmp_path))

    with pytest.raises(DataError, match="windows of 16"):
        draw_texts(given, 10**6)
    fresh = FreshCalibration(tiny("llama"), torch.zeros(2, 8, dtype=torch.long), torch.float32, Silent())
    with pytest.raises(DataError, match="9 windows are needed"):
        draw_texts(fresh, 1)
