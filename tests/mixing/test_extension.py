"""Losses of blocks that were not rounded to every type follow from those of blocks that were."""

from __future__ import annotations

import math

import pytest

from slmquant.mixing.extension import Losses, extended, representatives

BLOCKS = [f"layers.{index}" for index in range(10)]
FULL, LINEAR = "attention.v_proj", "mixer.in_proj"


def losses(name: str, slope: float, noise: float = 0.0) -> tuple[Losses, Losses]:
    """Known and rough losses of a linear of every block, whose ratio grows by `slope` from block to block."""
    rough = {f"{block}.{name}": {"Q4": 0.1 + place, "Q8": 0.01 * (1 + place)} for place, block in enumerate(BLOCKS)}
    known = {
        linear: {
            kind: loss * scale * math.exp(slope * place + noise * (-1) ** place)
            for (kind, loss), scale in zip(several.items(), (0.5, 0.9), strict=True)
        }
        for place, (linear, several) in enumerate(rough.items())
    }
    return known, rough


def test_where_every_block_is_known_nothing_is_estimated() -> None:
    known, rough = losses(FULL, 0.1, noise=0.3)

    assert extended(known, rough, BLOCKS) == (known, None)


def test_a_ratio_that_is_smooth_in_depth_is_found_in_every_block() -> None:
    known, rough = losses(FULL, 0.1)
    chosen = representatives(known, BLOCKS, 4)
    found, error = extended({name: known[name] for name in chosen}, rough, BLOCKS)

    assert len(chosen) == 4  # blocks 0, 4, 8 and 9
    assert found.keys() == known.keys()
    for name, expected in known.items():
        assert found[name] == pytest.approx(expected)
    assert error == pytest.approx(0.0, abs=1e-9)


def test_the_error_is_what_known_blocks_are_off_by() -> None:
    known, rough = losses(FULL, 0.0, noise=0.05)
    chosen = representatives(known, BLOCKS, 3)
    _, error = extended({name: known[name] for name in chosen}, rough, BLOCKS)

    assert error == pytest.approx(0.1, rel=0.3)  # blocks 0, 3, 6 and 9: neighbours are off by twice the noise


def test_a_kind_that_few_blocks_have_is_represented() -> None:
    types = {f"layers.{place}.{FULL if place % 4 == 3 else LINEAR}": ["Q4"] for place in range(10)}
    chosen = representatives(types, BLOCKS, 4)

    assert {name for name in chosen if name.endswith(FULL)} == {f"layers.3.{FULL}", f"layers.7.{FULL}"}
    assert f"layers.0.{LINEAR}" in chosen and f"layers.9.{LINEAR}" in chosen
    assert representatives(types, BLOCKS, 1) == types.keys()


def test_linears_with_other_types_are_another_kind() -> None:
    types = {f"layers.{place}.{FULL}": ["Q4", "Q4_K"] if place < 5 else ["Q4"] for place in range(10)}

    assert representatives(types, BLOCKS, 100) == {f"layers.{place}.{FULL}" for place in (0, 4, 5, 9)}
