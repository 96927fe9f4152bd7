"""Activations in small floats and in blocks of channels: nearest, exact in bfloat16, each token by itself."""

import pytest
import torch

from slmquant.core.elements import TABLES, Elements, Integers
from slmquant.core.tokens import block_codes, token_codes


def activations(tokens: int = 6, channels: int = 72) -> torch.Tensor:
    """Channels of different loudness; one token of zeros; channels no multiple of a block."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, channels, generator=generator) * torch.logspace(-1, 1, channels)
    x[2] = 0
    return x


BLOCKS = [
    (TABLES["E2M1"], 32, False),
    (TABLES["E3M2"], 32, False),
    (TABLES["E2M3"], 32, False),
    (TABLES["E4M3"], 32, False),
    (Integers.of(8, symmetric=True), 32, False),
    (TABLES["E2M1"], 16, True),
]
NAMES = ["MXFP4", "MXFP6", "MXFP6E2M3", "MXFP8", "MXINT8", "NVFP4"]


@pytest.mark.parametrize("name", ["E4M3", "E5M2"])
def test_fp8_puts_the_largest_of_a_token_on_the_largest_number(name: str) -> None:
    x = activations()
    codes, scale = token_codes(x, TABLES[name])

    assert codes.abs().amax(1).tolist() == [TABLES[name].high] * 2 + [0] + [TABLES[name].high] * 3
    assert ((codes * scale - x).abs() <= x.abs() * (2**-4 if name == "E4M3" else 2**-3) + scale * 2**-9).all()


@pytest.mark.parametrize("name", ["E4M3", "E5M2"])
def test_fp8_codes_are_exact_in_bfloat16(name: str) -> None:
    codes = token_codes(activations(), TABLES[name]).codes

    assert torch.equal(codes.bfloat16().float(), codes)


@pytest.mark.parametrize(("elements", "size", "two_level"), BLOCKS, ids=NAMES)
def test_blocks_are_exact_in_bfloat16_and_their_tokens_alone(elements: Elements, size: int, two_level: bool) -> None:
    x = activations().view(2, 3, 72)
    codes, scale = block_codes(x, elements, size, two_level=two_level)
    alone, own = block_codes(x[1, 2:], elements, size, two_level=two_level)

    assert torch.equal(codes.bfloat16().float(), codes)
    assert torch.equal((codes * scale)[1, 2:], alone * own)
    assert (codes[0, 2] == 0).all()


@pytest.mark.parametrize(("elements", "size", "two_level"), BLOCKS, ids=NAMES)
def test_blocks_err_no_more_than_their_elements_do(elements: Elements, size: int, two_level: bool) -> None:
    """A block's largest is at most a quarter above the largest number, and half the widest gap is what may be lost."""
    x = activations()
    codes, scale = block_codes(x, elements, size, two_level=two_level)
    largest = torch.cat([part.abs().amax(1, keepdim=True).expand_as(part) for part in x.split(size, dim=1)], dim=1)
    share = {"E4M3": 0.15, "E3M2": 0.15, "integers -128..127": 0.01}.get(elements.name, 0.27)

    assert ((codes * scale - x).abs() <= share * largest + 1e-9).all()
    assert torch.linalg.norm(codes * scale - x) < 0.15 * torch.linalg.norm(x)


def test_nvfp4_blocks_err_less_than_mxfp4s() -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    nvfp4, mxfp4 = (block_codes(x, TABLES["E2M1"], size, two_level=two) for size, two in ((16, True), (32, False)))

    assert (nvfp4.codes * nvfp4.scale - x).norm() < (mxfp4.codes * mxfp4.scale - x).norm()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize(("elements", "size", "two_level"), BLOCKS, ids=NAMES)
def test_a_block_that_is_not_finite_stays_so(elements: Elements, size: int, two_level: bool, wrong: float) -> None:
    x = activations()
    x[0, 3] = wrong
    codes, scale = block_codes(x, elements, size, two_level=two_level)

    assert not (codes * scale)[0, :size].isfinite().any()
    assert (codes * scale)[1:].isfinite().all()


@pytest.mark.parametrize("elements", [TABLES["E4M3"], TABLES["E2M1"], Integers.of(8, symmetric=True)])
def test_a_token_that_is_no_number_stays_so(elements: Elements) -> None:
    x = activations()
    x[0, 3] = torch.nan
    codes, scale = token_codes(x, elements)

    assert (codes * scale)[0].isnan().any()
    assert (codes * scale)[1:].isfinite().all()
