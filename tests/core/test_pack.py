"""Dense packing is exact for every width and shape."""

import pytest
import torch

from slmquant.core.pack import pack, packed_bytes, unpack
from slmquant.testing.oracles import pack_one_by_one


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("size", [1, 7, 8, 9, 61, 576])
@pytest.mark.parametrize("signed", [True, False])
def test_unpacking_undoes_packing(bits: int, size: int, signed: bool) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    codes = torch.randint(low, high, (5, size), generator=torch.Generator().manual_seed(bits))
    codes = codes.to(torch.int8 if signed else torch.uint8)

    packed = pack(codes, bits)

    assert packed.shape == (5, packed_bytes(size, bits))
    assert torch.equal(unpack(packed, bits, size, signed), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_lie_where_the_definition_puts_them(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (3, 29), generator=torch.Generator().manual_seed(bits))

    for row, expected in zip(pack(codes, bits), codes.tolist(), strict=True):
        assert bytes(row.tolist()) == pack_one_by_one(expected, bits)


def test_rows_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes a row cannot hold 9 codes of 4 bits; expected 5"):
        unpack(torch.zeros(2, 4, dtype=torch.uint8), 4, 9, signed=False)
