"""How scales are stored: what is read back is near, never 0, and the same when it is stored again."""

import pytest
import torch

from slmquant.core.affine import Grid
from slmquant.core.elements import TABLES
from slmquant.core.groups import Bounds
from slmquant.core.scales import AffineParams, DoubleQuantized, Plain, PowerOfTwo, ScaleStorage, TensorScaled
from slmquant.core.superblocks import OddScales, SuperBlocks

NEARNESS: list[tuple[ScaleStorage, float]] = [
    (Plain(16), 2**-11),
    (Plain(32), 0),
    (PowerOfTwo(), 0.42),
    (TensorScaled(), 2**-4),
    (DoubleQuantized(), 2**-4),
    (SuperBlocks(8, 6, holds_shift=True), 0.05),
    (SuperBlocks(16, 8, holds_shift=False), 0.02),
    (SuperBlocks(8, 6, holds_shift=False), 0.05),
    (OddScales(8, 1.0), 0.1),
    (OddScales(16, 0.125), 0.1),
]


def scales(rows: int = 37, count: int = 9) -> torch.Tensor:
    """Scales as weights have them: of the same order, none of them small."""
    return 0.01 + 0.02 * torch.rand(rows, count, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("storage", "nearness"), NEARNESS, ids=lambda value: getattr(value, "name", ""))
def test_what_is_read_is_near_what_was_stored(storage: ScaleStorage, nearness: float) -> None:
    scale = scales()
    read = storage.decode(storage.encode(scale, torch.zeros_like(scale))).scale

    assert ((read / scale - 1).abs() <= nearness + 1e-7).all()


@pytest.mark.parametrize("storage", [storage for storage, _ in NEARNESS], ids=lambda storage: storage.name)
@pytest.mark.parametrize("zeros", ["some", "all"])
def test_no_scale_is_zero(storage: ScaleStorage, zeros: str) -> None:
    scale = scales() if zeros == "some" else torch.zeros(37, 9)
    scale[3], scale[7, 2] = 0, 0
    read = storage.decode(storage.encode(scale, torch.zeros_like(scale))).scale

    assert (read != 0).all()
    assert read.isfinite().all()


def test_a_small_scale_does_not_sink_under_the_mean() -> None:
    """The nearest 8-bit float of `s − mean` may lie at or below `−mean`; the one above it is taken."""
    scale = scales()
    scale[::3] *= 1e-4

    assert (DoubleQuantized().decode(DoubleQuantized().encode(scale, torch.zeros_like(scale))).scale > 0).all()


def test_double_quantization_takes_eight_bits_a_scale_and_a_float_for_each_256() -> None:
    parts = DoubleQuantized().encode(scales(100, 9), torch.zeros(100, 9))

    assert parts["scale"].dtype == torch.uint8
    assert parts["scale"].shape == (100, 9)
    assert parts["block_scale"].numel() == 4
    assert parts["mean"].numel() == 1


@pytest.mark.parametrize(
    ("element", "largest", "exponent"),
    [("E2M1", 6.0, 0), ("E2M1", 3.9, -1), ("E2M1", 4.0, 0), ("E4M3", 448.0, 0), ("E5M2", 1.0, -15), ("E3M2", 1.9, -4)],
)
def test_a_microscaling_exponent_is_that_of_the_largest_less_the_elements_own(
    element: str, largest: float, exponent: int
) -> None:
    """`floor(log2 max|w|) − emax`, section 6.3 of the specification; emax is 2, 8, 15, 4, 2."""
    grid = Grid(TABLES[element].bits, group_size=32, numbers=TABLES[element], rule="power", layout=PowerOfTwo())
    affine = grid.cover(Bounds(torch.tensor([[-largest]]), torch.tensor([[0.5 * largest]])))

    assert affine.parts is not None
    assert affine.scale.item() == 2.0**exponent
    assert affine.parts["scale"].item() == 127 + exponent


def test_nvfp4_scales_are_e4m3_of_a_tensor_scale_that_puts_the_largest_on_448() -> None:
    W = torch.randn(8, 48, generator=torch.Generator().manual_seed(0))
    grid = Grid(4, group_size=16, numbers=TABLES["E2M1"], layout=TensorScaled())
    parts = grid.quantize(W).parts
    blocks = W.view(8, 3, 16).abs().amax(2) / 6
    top = blocks.max() / 448

    assert float(parts["tensor_scale"]) == pytest.approx(float(top))
    assert torch.equal(parts["scale"].view(torch.float8_e4m3fn).float(), (blocks / top).to(torch.float8_e4m3fn).float())
    assert parts["scale"].view(torch.float8_e4m3fn).float().max() == 448


@pytest.mark.parametrize("storage", [storage for storage, _ in NEARNESS], ids=lambda storage: storage.name)
def test_parameters_that_are_stored_already_are_kept(storage: ScaleStorage) -> None:
    grid = Grid(4, symmetric=not storage.holds_shift, group_size=4, layout=storage)
    affine = grid.fit(torch.randn(8, 36, generator=torch.Generator().manual_seed(1)))

    assert grid.stored(affine) is affine


def test_parts_that_say_something_else_are_made_anew() -> None:
    grid = Grid(4, group_size=4, scale_bits=16)
    affine = grid.fit(torch.randn(8, 36, generator=torch.Generator().manual_seed(1)))
    doubled = grid.stored(AffineParams(2 * affine.scale, affine.zero_point, affine.parts))

    assert torch.equal(doubled.scale, 2 * affine.scale)


def test_scales_of_a_whole_weight_are_not_taken_apart() -> None:
    quantized = Grid(4, group_size=16, numbers=TABLES["E2M1"], layout=TensorScaled()).quantize(torch.randn(8, 48))

    with pytest.raises(ValueError, match="cannot split a weight whose scales are stored as"):
        quantized.rows(0, 4)


@pytest.mark.parametrize("size", [1e-5, 1e-6])
def test_a_small_scale_is_kept_as_a_subnormal_number(size: float) -> None:
    scale = scales() / 0.03 * size
    read = Plain(16).decode(Plain(16).encode(scale, torch.zeros_like(scale))).scale

    assert ((read - scale).abs() <= 2.0**-25).all()
