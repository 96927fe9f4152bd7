"""A weight on a grid is found and named; one that is on none is not, whatever its distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slmquant.inspection.lattice import lattice_of
from slmquant.inspection.weights import smallest_dtype
from slmquant.model.computing.grids import grid_of
from slmquant.schemes import parse
from slmquant.store.inspected import Lattice

ROWS, COLUMNS = 384, 1024


def normal(rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> Tensor:
    return 0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def rounded(scheme: str, W: Tensor | None = None) -> Tensor:
    spec = parse(scheme).weights
    assert spec is not None
    return grid_of(spec).rounded(normal() if W is None else W)


def look(W: Tensor) -> Lattice:
    found = lattice_of(W, torch.finfo(getattr(torch, smallest_dtype(W))).eps)
    assert found is not None
    return found


def factors(count: int, seed: int) -> Tensor:
    """As `pull` moves weights off their grid."""
    return 2 ** (0.5 * torch.rand(count, generator=torch.Generator().manual_seed(seed)) - 0.25)


@pytest.mark.parametrize(
    ("scheme", "block"),
    [
        ("Q8_0", 32), ("Q4_0", 32), ("Q4_1", 32), ("Q5_0", 32), ("Q5_1", 32), ("IQ4_NL", 32), ("IQ4_XS", 32),
        ("Q2_K", 16), ("Q3_K", 16), ("Q4_K", 32), ("Q5_K", 32), ("Q6_K", 16),
        ("W4A16g64", 64), ("W4A16g64-asym", 64), ("W3A16g128", 128), ("W8A16g256", 256), ("W8A16", COLUMNS),
        ("W1.58A16g64", 64),
    ],
)  # fmt: skip
def test_every_grid_is_found_and_named(scheme: str, block: int) -> None:
    found = look(rounded(scheme))

    assert (found.on_grid, found.type, found.block) == ("exactly", scheme, block)
    assert found.fit > 0.95


@pytest.mark.parametrize(
    "name", ["normal", "in bfloat16", "in float16", "heavy tails", "outlier columns", "low rank", "half zeros"]
)
def test_numbers_that_were_never_rounded_to_few_bits_are_on_no_grid(name: str) -> None:
    W = normal()
    generator = torch.Generator().manual_seed(1)
    changed = {
        "normal": W,
        "in bfloat16": W.bfloat16().float(),
        "in float16": W.half().float(),
        "heavy tails": W / torch.rand(ROWS, COLUMNS, generator=generator),
        "outlier columns": W * (1 + 50 * (torch.rand(COLUMNS, generator=generator) < 0.01)),
        "low rank": normal(ROWS, 4) @ normal(4, COLUMNS, seed=2),
        "half zeros": W * (torch.rand(ROWS, COLUMNS, generator=generator) < 0.5),
    }[name]

    found = look(changed)

    assert (found.on_grid, found.type) == ("no", None)
    assert abs(found.z) < 5


def test_normal_numbers_raise_no_false_alarm() -> None:
    assert {look(normal(96, 128, seed)).on_grid for seed in range(60)} == {"no"}


@pytest.mark.parametrize("scheme", ["Q4_0", "Q4_1"])
def test_codes_of_four_bits_show_through_16_bit_numbers(scheme: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        found = look(rounded(scheme).to(dtype).float())

        assert found.on_grid in ("exactly", "nearly")
        assert found.type == scheme


@pytest.mark.parametrize("scheme", ["Q4_0", "W4A16g64"])
def test_a_little_noise_leaves_it_near_its_grid(scheme: str) -> None:
    W = rounded(scheme)
    found = look(W + 0.05 * 0.02 * 2 / 7.5 * torch.randn(W.shape, generator=torch.Generator().manual_seed(5)))

    assert (found.on_grid, found.type) == ("nearly", scheme)
    assert found.fit - found.fit_shuffled > 0.1
    assert found.z > 8


@pytest.mark.parametrize(("scheme", "block"), [("Q4_0", 32), ("Q4_1", 32), ("Q8_0", 32), ("W4A16g64", 64)])
def test_a_grid_is_found_below_scaled_rows_and_columns(scheme: str, block: int) -> None:
    rows = 2048 if scheme == "Q8_0" else ROWS  # 255 codes seldom repeat
    W = rounded(scheme, normal(rows, 256)) * factors(256, 1) * factors(rows, 2)[:, None]
    found = look(W)

    assert (found.on_grid, found.type, found.block) == ("moved", scheme, block)
    assert found.ties > 4 * found.ties_shuffled
    assert found.fit - found.fit_shuffled < 0.1


def test_rows_that_are_too_short_tell_nothing() -> None:
    assert lattice_of(normal(50, 12), torch.finfo(torch.float32).eps) is None
    assert lattice_of(torch.ones(50, 64), torch.finfo(torch.float32).eps) is None


def test_the_smallest_dtype_is_the_one_that_holds_every_number() -> None:
    W = normal()

    assert smallest_dtype(W) == "float32"
    assert smallest_dtype(W.bfloat16().float()) == "bfloat16"
    assert smallest_dtype(W.half().float()) == "float16"
