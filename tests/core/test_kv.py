"""Rounded keys and values: against slow loops, within half a step, and what has no complete group left alone."""

import math

import pytest
import torch
from torch import Tensor

from slmquant.core.kv import bits_per_value, round_float8, round_per_channel, round_per_token


def cache(tokens: int = 11, dim: int = 10, seed: int = 0) -> Tensor:
    """Keys of two sequences and three heads; some channels lie far from 0, as real keys do."""
    generator = torch.Generator().manual_seed(seed)
    offset = torch.where(torch.arange(dim) % 4 == 0, 8.0, 0.0)
    return torch.randn(2, 3, tokens, dim, generator=generator) + offset


def half(number: float) -> float:
    return float(torch.tensor(number).half())


def round_slowly(values: list[float], bits: int) -> tuple[list[float], float]:
    """Each value of one group as the nearest of `low + scale · code`, found by trying every code; and the scale."""
    low, high = half(min(values)), max(values)
    scale = max(half((high - low) / (2**bits - 1)), 2.0**-24)
    levels = [low + scale * code for code in range(2**bits)]
    return [min(levels, key=lambda level: abs(level - value)) for value in values], scale


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 4, 5])
def test_per_token_rounding_equals_trying_every_code(bits: int, group_size: int | None) -> None:
    x = cache()
    found = round_per_token(x, bits, group_size)
    size = group_size or x.shape[-1]
    for token, rounded in zip(x.reshape(-1, x.shape[-1]), found.reshape(-1, x.shape[-1]), strict=True):
        for start in range(0, len(token), size):
            expected, scale = round_slowly(token[start : start + size].tolist(), bits)

            assert rounded[start : start + size].tolist() == pytest.approx(expected, abs=1e-3 * scale)


@pytest.mark.parametrize("bits", [2, 4])
def test_per_channel_rounding_equals_trying_every_code(bits: int) -> None:
    x, group = cache(tokens=11), 4
    found = round_per_channel(x, bits, group)
    for sequence in range(2):
        for head in range(3):
            for channel in range(10):
                for start in (0, 4):
                    where = (sequence, head, slice(start, start + group), channel)
                    expected, scale = round_slowly(x[where].tolist(), bits)

                    assert found[where].tolist() == pytest.approx(expected, abs=1e-3 * scale)


def test_a_group_that_is_not_complete_keeps_full_precision() -> None:
    x = cache(tokens=11)

    assert torch.equal(round_per_channel(x, 2, 4)[..., 8:, :], x[..., 8:, :])
    assert torch.equal(round_per_channel(x[..., :3, :], 2, 4), x[..., :3, :])
    assert not torch.equal(round_per_channel(x, 2, 4)[..., :8, :], x[..., :8, :])


def test_complete_groups_do_not_change_when_tokens_follow() -> None:
    x = cache(tokens=11)

    assert torch.equal(round_per_channel(x, 2, 4)[..., :4, :], round_per_channel(x[..., :6, :], 2, 4)[..., :4, :])


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_a_value_errs_by_at_most_half_a_step(bits: int) -> None:
    """And by what float16 takes from the minimum and the scale at the ends of the range, 2⁻¹¹ of either."""
    x = cache()
    step = (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)) / (2**bits - 1)
    ends = 2**-11 * (x.amin(-1, keepdim=True).abs() + 2 * x.abs().amax(-1, keepdim=True))

    assert ((round_per_token(x, bits) - x).abs() <= step / 2 + ends).all()


def test_more_bits_err_less() -> None:
    x = cache(64, 32)
    per_token = [round_per_token(x, bits) for bits in range(2, 9)]
    per_channel = [round_per_channel(x, bits, 32) for bits in range(2, 9)]
    for rounded in (per_token, per_channel):
        errors = [float((found - x).square().mean()) for found in rounded]

        assert errors == sorted(errors, reverse=True)


def test_channels_far_from_zero_favour_scales_per_channel() -> None:
    """KIVI's observation: outlying channels of keys stretch the range of every token."""
    x = cache(64, 32)

    assert (round_per_channel(x, 2, 32) - x).square().mean() < (round_per_token(x, 2) - x).square().mean() / 4


def test_tokens_are_rounded_alone() -> None:
    x = cache()

    for rounded in (lambda part: round_per_token(part, 3, 4), round_float8):
        one_by_one = torch.cat([rounded(token) for token in x.split(1, dim=-2)], dim=-2)

        assert torch.equal(rounded(x), one_by_one)


def test_alike_values_stay() -> None:
    for number in (0.0, 1.5, -3.0):
        x = torch.full((1, 1, 4, 8), number)

        assert torch.equal(round_per_token(x, 2), x)
        assert torch.equal(round_per_channel(x, 2, 4), x)
        assert torch.allclose(round_float8(x), x, rtol=1e-3)


def test_float8_equals_the_nearest_of_all_its_numbers() -> None:
    """E4M3 has 4 bits of exponent with bias 7 and 3 of mantissa; 1111.111 is no number."""
    numbers = [
        sign * (2.0**-6 * mantissa / 8 if exponent == 0 else 2.0 ** (exponent - 7) * (1 + mantissa / 8))
        for sign in (1, -1)
        for exponent in range(16)
        for mantissa in range(8)
        if (exponent, mantissa) != (15, 7)
    ]
    for token in cache().reshape(-1, 10)[:20]:
        scale = half(float(token.abs().max()) / 448)
        expected = [scale * min(numbers, key=lambda n: abs(n - float(x) / scale)) for x in token]

        assert round_float8(token[None])[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_huge_values_stay_finite() -> None:
    x = cache() * 1e5

    for rounded in (round_per_token(x, 4), round_per_channel(x, 4, 4), round_float8(x)):
        assert torch.isfinite(rounded).all()


def test_dtype_is_kept() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        x = cache().to(dtype)

        assert {y.dtype for y in (round_per_token(x, 4, 3), round_per_channel(x, 4, 4), round_float8(x, 4))} == {dtype}


def test_bits_count_scale_and_minimum() -> None:
    assert bits_per_value(4, 64) == 4.5
    assert bits_per_value(2, 32) == 3.0
    assert math.isclose(bits_per_value(8, 128, parameters=1), 8.125)


@pytest.mark.parametrize("loudness", [1.0, 1e-4])
def test_a_quiet_head_loses_no_more_than_a_loud_one(loudness: float) -> None:
    x = torch.randn(1, 1, 50, 16, generator=torch.Generator().manual_seed(0)) * loudness
    for rounded in (round_per_token(x, 8), round_float8(x)):
        assert float((rounded - x).norm() / x.norm()) < 0.04
