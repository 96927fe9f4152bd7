"""Quantizers of activations: what every format rounds to, and that the codes of a tensor are found once."""

import pytest
import torch

from slmquant.model.computing.activations import ActivationQuantizer, LastCodes, static_scale
from slmquant.schemes import ActivationSpec, parse

SCHEMES = ["W4A8", "W4A4", "W4AFP8", "FP8E5M2", "MXFP4", "MXFP6", "MXFP6E2M3", "MXFP8", "MXFP8E5M2", "MXINT8", "NVFP4"]


def spec(name: str) -> ActivationSpec:
    activations = parse(name).activations
    assert activations is not None
    return activations


def inputs() -> torch.Tensor:
    return torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SCHEMES)
def test_the_product_over_codes_is_the_product_over_what_they_stand_for(name: str) -> None:
    """In bfloat16 as in float32: codes lose nothing."""
    x = inputs()
    in_bfloat16, in_float32 = (ActivationQuantizer(spec(name), dtype)(x) for dtype in (torch.bfloat16, torch.float32))

    assert torch.equal(in_bfloat16.codes.float(), in_float32.codes)
    assert torch.linalg.norm(in_float32.codes * in_float32.scale - x) < 0.16 * torch.linalg.norm(x)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_token_does_not_depend_on_its_neighbours(name: str) -> None:
    x = inputs()
    codes, scale = ActivationQuantizer(spec(name), torch.float32)(x)
    alone = ActivationQuantizer(spec(name), torch.float32)(x[1:, 3:4])

    assert torch.equal((codes * scale)[1:, 3:4], alone.codes * alone.scale)


@pytest.mark.parametrize(("name", "largest_number"), [("W8A8-static", 127), ("FP8-static", 448)])
def test_a_static_scale_puts_the_largest_of_calibration_on_the_largest_number(name: str, largest_number: float) -> None:
    x = inputs()
    scale = static_scale(spec(name), float(x.abs().max()))
    quantizer = ActivationQuantizer(spec(name), torch.float32, scale)

    assert quantizer(x).codes.abs().max() == largest_number
    assert quantizer(10 * inputs()).codes.abs().max() in (largest_number, largest_number + 1)  # int8 reaches to −128
    assert static_scale(spec(name), 0.0) == 1


def test_codes_of_a_tensor_are_found_once_for_all_its_readers() -> None:
    last, x = LastCodes(), inputs()
    first, second = (ActivationQuantizer(spec("FP8"), torch.float32, last=last) for _ in range(2))

    assert first(x) is second(x)
    assert first(x) is not second(x.clone())


@pytest.mark.parametrize("name", ["W4A8", "FP8", "NVFP4"])
def test_channels_that_are_left_out_are_zero_and_set_no_scale(name: str) -> None:
    x = inputs()
    x[..., 7] = 1000
    left_out = torch.tensor([7])
    quantizer = ActivationQuantizer(spec(name), torch.float32)
    codes, scale = quantizer(x, left_out)

    assert (codes[..., 7] == 0).all()
    assert (scale < 0.1).all()
    assert not torch.equal(codes, quantizer(x).codes)
