"""Small floats: the numbers of the specifications, and rounding as torch's own conversions do it."""

from dataclasses import replace

import pytest
import torch

from slmquant.core.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, MiniFloat, power_below

FORMATS = [E4M3, E5M2, E3M2, E2M3, E2M1]
NATIVE = [(E4M3, torch.float8_e4m3fn), (E5M2, torch.float8_e5m2)]


def wide(count: int = 20000) -> torch.Tensor:
    """Numbers of all magnitudes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, generator=generator) * torch.exp(4 * torch.randn(count, generator=generator))


@pytest.mark.parametrize(
    ("small", "positive"),
    [
        (E2M1, [0, 0.5, 1, 1.5, 2, 3, 4, 6]),
        (E2M3, [m / 8 for m in range(16)] + [2 + m / 4 for m in range(8)] + [4 + m / 2 for m in range(8)]),
        (E3M2, [m / 16 for m in range(8)] + [2.0**e * (1 + m / 4) for e in range(-1, 5) for m in range(4)]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_numbers_are_those_of_the_microscaling_specification(small: MiniFloat, positive: list[float]) -> None:
    assert list(small.values()) == positive + [-value for value in positive]


@pytest.mark.parametrize(("small", "dtype"), NATIVE, ids=["E4M3", "E5M2"])
def test_bit_patterns_of_fp8_are_torchs(small: MiniFloat, dtype: torch.dtype) -> None:
    torchs = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype).float()
    ours = torch.tensor(small.values())

    assert torch.equal(ours.isfinite(), torchs.isfinite())
    assert torch.equal(ours[ours.isfinite()], torchs[torchs.isfinite()])


@pytest.mark.parametrize(("small", "dtype"), NATIVE, ids=["E4M3", "E5M2"])
def test_rounding_by_arithmetic_is_torchs_conversion(small: MiniFloat, dtype: torch.dtype) -> None:
    x = torch.cat([wide(), torch.tensor(small.values()).nan_to_num(0)]).clamp(-small.largest, small.largest)
    by_arithmetic = replace(small, native=None).round(x)

    assert torch.equal(by_arithmetic, x.to(dtype).float())
    assert torch.equal(small.round(x), by_arithmetic)


@pytest.mark.parametrize("small", FORMATS, ids=lambda small: small.name)
def test_rounding_finds_the_nearest_number_and_saturates(small: MiniFloat) -> None:
    x = torch.cat([wide(2000), torch.tensor([1e30, -1e30, 0.0])])
    numbers = torch.tensor([value for value in small.values() if value == value])
    least = (x.clamp(-small.largest, small.largest)[:, None] - numbers).abs().amin(dim=1)
    rounded = replace(small, native=None).round(x)

    assert torch.isin(rounded, numbers).all()
    assert torch.equal((rounded - x.clamp(-small.largest, small.largest)).abs(), least)


def test_the_power_below_is_exact_at_powers_of_two() -> None:
    x = torch.tensor([1.0, 0.999999, 1.000001, 2.0**-100, 448.0, 7.5])

    assert power_below(x).tolist() == [1, 0.5, 1, 2.0**-100, 256, 4]
