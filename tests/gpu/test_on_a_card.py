"""Every method on every architecture on an accelerator, as `make test-gpu` runs it where there is one.

`SLMQUANT_GPU_DEVICE=cpu` tries the tests themselves on a machine without.
"""

import os

import pytest
import torch

from slmquant import methods
from slmquant.schemes import parse
from slmquant.testing.method_contract import check_method, combinations, quantized
from slmquant.testing.tiny import ARCHITECTURES

DEVICE = os.environ.get("SLMQUANT_GPU_DEVICE", "cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no accelerator here"),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", combinations())
def test_a_method_keeps_its_contract_on_the_card(method: str, architecture: str) -> None:
    """And refuses there what it refuses on a processor."""
    on_card = check_method(method, architecture, "W8A8", DEVICE).refusal

    if on_card is not None and methods.load(method).refusal(parse("W8A8")) is None:
        assert check_method(method, architecture, "W8A8").refusal == on_card


@pytest.mark.parametrize("scheme", ["W4A16g16", "W4A4KV4", "MXFP4", "Q4_0", "W8A8-static", "W4A16g16E8-asym", "NVFP4"])
def test_numbers_are_those_of_a_processor(scheme: str) -> None:
    """Plain rounding gives the same codes, but where a weight lies between two of them to the last bit."""
    here, there = (quantized("rtn", scheme, device=device).weights for device in ("cpu", DEVICE))

    assert here.keys() == there.keys()
    for name, weight in here.items():
        equal = (weight.codes == there[name].codes.cpu()).float().mean()
        assert equal > 0.995, name
        torch.testing.assert_close(there[name].scale.cpu(), weight.scale, rtol=1e-4, atol=0)
