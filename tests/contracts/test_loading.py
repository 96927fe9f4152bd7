"""A model of every architecture is loaded from a folder as it was saved."""

from pathlib import Path

import pytest
import torch

from slmquant.model.sources.configuration import read_configuration
from slmquant.model.sources.load import _weights
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import ARCHITECTURES, tiny


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_the_model_that_was_saved(architecture: str, tmp_path: Path) -> None:
    model = tiny(architecture)
    model.save_pretrained(tmp_path)

    loaded = _weights(tmp_path, read_configuration(tmp_path), torch.float32).train(False)

    with torch.no_grad():
        assert torch.allclose(loaded(calibration_tokens(2)).logits, model(calibration_tokens(2)).logits, atol=1e-5)
