"""Element sets: the nearest is nearest, codes and names come back, packing loses nothing."""

import pytest
import torch

from slmquant.core.elements import NF4, TABLES, TERNARY, Elements, Integers, by_name

SETS: list[Elements] = [*TABLES.values(), TERNARY, Integers(-127, 127), Integers(-4, 3), Integers(0, 31)]
PUBLISHED_NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
PUBLISHED_NF4 += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
PUBLISHED_NF4 += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941]
PUBLISHED_NF4 += [0.7229568362236023, 1.0]


def every_code(elements: Elements) -> torch.Tensor:
    """Codes that stand for a number, as floats."""
    if isinstance(elements, Integers):
        return torch.arange(elements.low, elements.high + 1).float()
    codes = torch.arange(2.0**elements.bits)
    return codes[elements.values(codes).isfinite()]


def test_nf4_is_the_published_table() -> None:
    """The table in appendix E of the QLoRA paper, which its authors computed in float32 with scipy."""
    assert torch.allclose(torch.tensor(NF4.points), torch.tensor(PUBLISHED_NF4), atol=3e-7, rtol=0)


@pytest.mark.parametrize("elements", SETS, ids=lambda elements: elements.name)
def test_the_nearest_is_nearest(elements: Elements) -> None:
    """Against looking at all of them."""
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * elements.high
    numbers = elements.values(every_code(elements))
    inside = x.clamp(elements.low, elements.high)
    least = (inside[:, None] - numbers).abs().amin(dim=1)

    assert torch.allclose((elements.values(elements.nearest(x)) - inside).abs(), least, atol=0, rtol=1e-5)
    assert torch.equal(elements.nearest_number(x), elements.values(elements.nearest(x)))


@pytest.mark.parametrize("elements", SETS, ids=lambda elements: elements.name)
def test_every_number_is_its_own_nearest(elements: Elements) -> None:
    numbers = elements.values(every_code(elements))

    assert torch.equal(elements.values(elements.nearest(numbers)), numbers)


@pytest.mark.parametrize("name", ["E3M2", "E2M3", "E2M1"])
def test_ties_go_to_the_even_pattern(name: str) -> None:
    numbers = TABLES[name].values(every_code(TABLES[name])).unique()
    ties = (numbers[1:] + numbers[:-1]) / 2

    assert (TABLES[name].nearest(ties) % 2 == 0).all()


@pytest.mark.parametrize("elements", SETS, ids=lambda elements: elements.name)
@pytest.mark.parametrize("size", [1, 7, 40, 576])
def test_packing_gives_codes_back_in_the_bytes_that_it_says(elements: Elements, size: int) -> None:
    codes = every_code(elements)
    chosen = codes[torch.randint(len(codes), (3, size), generator=torch.Generator().manual_seed(size))]
    packed = elements.pack(chosen.to(torch.int8 if elements.signed else torch.uint8))

    assert packed.shape == (3, elements.row_bytes(size))
    assert torch.equal(elements.unpack(packed, size).float(), chosen)


def test_five_ternary_codes_share_a_byte() -> None:
    assert TERNARY.row_bytes(576) == 116
    with pytest.raises(ValueError, match="cannot hold 11 ternary codes; expected 3"):
        TERNARY.unpack(torch.zeros(1, 2, dtype=torch.uint8), 11)


@pytest.mark.parametrize("elements", SETS, ids=lambda elements: elements.name)
def test_a_set_is_found_by_its_name(elements: Elements) -> None:
    assert by_name(elements.name) == elements


def test_an_unknown_name_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"no element set is called 'E9M9'; expected .* E2M1"):
        by_name("E9M9")
