"""Every transform of every method leaves the function of every architecture alone, in float64, or is refused."""

import copy
from contextlib import nullcontext

import pytest
import torch
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.calib.calibration import FreshCalibration
from slmquant.errors import RefusedError
from slmquant.methods.common.work import Work
from slmquant.model.discovery.float64 import computing_in_float64
from slmquant.progress import Silent
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.preservation import logit_change
from slmquant.testing.tiny import ARCHITECTURES, tiny
from tests.alike_methods import is_variant
from tests.contracts.builds import TYPICAL
from tests.discovered import relations_of

SCHEME = "W4A8g8"
TRANSFORMING = [name for name in methods.names() if methods.load(name).transforms]
FEW = ("llama", "gpt2", "gpt_neox", "lfm2")
"""For variants: separate linears and fused ones, with and without biases, and a convolution between them."""

EVERYWHERE = ("smooth_rms", "awq", "quarot")
"""Factors through norms and linears, given and searched, and rotations: other methods rewrite models as these do."""


def tried(name: str) -> tuple[str, ...]:
    """The architectures that a method is tried on; the slow tier tries all."""
    if name in EVERYWHERE:
        return ARCHITECTURES
    return FEW if is_variant(name) else TYPICAL


PAIRS = [(name, architecture) for name in TRANSFORMING for architecture in tried(name)]


def check(name: str, architecture: str) -> None:
    model = tiny(architecture)
    relations, scheme = relations_of(architecture), parse(SCHEME)
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())
    before = copy.deepcopy(model)

    def transform_(exact: PreTrainedModel) -> None:
        for transform in methods.load(name).transforms:
            if (reason := transform.refusal(scheme, relations)) is not None:
                raise RefusedError(reason)
            statistics = calibration.statistics(relations, transform.needs) if transform.needs else {}
            # A rotation looks at the model's own logits; what searches by statistics does so in their float32.
            with computing_in_float64() if transform.recaptures else nullcontext():
                transform.apply_(Work(exact, relations, scheme, calibration), statistics)

    try:
        change = logit_change(model, transform_)
    except RefusedError as refusal:
        assert len(str(refusal)) > 30, "a refusal says why"
        return

    assert change < 1e-10
    for parameter, original in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, original), "the copy was transformed, not the model"


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_transforms_preserve_the_function(name: str, architecture: str) -> None:
    check(name, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", TRANSFORMING)
def test_transforms_with_all_their_steps_preserve_the_function_of_every_architecture(
    name: str, architecture: str
) -> None:
    check(name, architecture)
