"""Dense bit packing: `n` codes of `b` bits in `ceil(n · b / 8)` bytes, row by row.

Code `i` of a row occupies bits `i·b` to `(i+1)·b − 1` of the row's little-endian bit stream. Eight codes fill
exactly `b` bytes, so eight codes at a time are packed through one 64-bit word.
"""

from __future__ import annotations

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

_CODES_PER_WORD = 8
_TRITS_PER_BYTE = 5


def pack(codes: Shaped[Tensor, "rows size"], bits: int) -> UInt8[Tensor, "rows bytes"]:
    """Pack whole numbers of `bits` bits; negative ones are stored in two's complement.

    Raises:
        ValueError: `bits` is not 1 to 8.
    """
    _check(bits)
    rows, size = codes.shape
    words = torch.zeros(rows, -(-size // _CODES_PER_WORD) * _CODES_PER_WORD, dtype=torch.int64, device=codes.device)
    words[:, :size] = codes.to(torch.int64) & (2**bits - 1)
    shifts = torch.arange(_CODES_PER_WORD, device=codes.device) * bits
    word = (words.view(rows, -1, _CODES_PER_WORD) << shifts).sum(dim=2)
    octets = (word[:, :, None] >> (8 * torch.arange(bits, device=codes.device))) & 0xFF
    return octets.flatten(1)[:, : packed_bytes(size, bits)].to(torch.uint8)


def unpack(packed: UInt8[Tensor, "rows bytes"], bits: int, size: int, signed: bool) -> Shaped[Tensor, "rows size"]:
    """Undo `pack`: int8 codes if `signed`, else uint8.

    Raises:
        ValueError: `bits` is not 1 to 8, or the row length does not match `size` codes.
    """
    _check(bits)
    rows, octet_count = packed.shape
    if octet_count != packed_bytes(size, bits):
        raise ValueError(
            f"{octet_count} bytes a row cannot hold {size} codes of {bits} bits; expected {packed_bytes(size, bits)}"
        )
    octets = torch.zeros(rows, -(-octet_count // bits) * bits, dtype=torch.int64, device=packed.device)
    octets[:, :octet_count] = packed
    word = (octets.view(rows, -1, bits) << (8 * torch.arange(bits, device=packed.device))).sum(dim=2)
    shifts = torch.arange(_CODES_PER_WORD, device=packed.device) * bits
    codes: Tensor = ((word[:, :, None] >> shifts) & (2**bits - 1)).flatten(1)[:, :size]
    if not signed:
        return codes.to(torch.uint8)
    sign = 2 ** (bits - 1)
    signed_codes: Tensor = (codes ^ sign) - sign
    return signed_codes.to(torch.int8)


def pack_ternary(codes: Shaped[Tensor, "rows size"]) -> UInt8[Tensor, "rows bytes"]:
    """Pack −1, 0 and 1 five to a byte, as digits of base 3; the first of the five is the lowest digit."""
    rows, size = codes.shape
    digits = torch.zeros(rows, ternary_bytes(size) * _TRITS_PER_BYTE, dtype=torch.int64, device=codes.device)
    digits[:, :size] = codes.to(torch.int64) + 1
    return (digits.view(rows, -1, _TRITS_PER_BYTE) * _powers_of_3(codes.device)).sum(dim=2).to(torch.uint8)


def unpack_ternary(packed: UInt8[Tensor, "rows bytes"], size: int) -> Shaped[Tensor, "rows size"]:
    """Undo `pack_ternary`: int8 codes.

    Raises:
        ValueError: The row length does not match `size` codes.
    """
    if packed.shape[1] != ternary_bytes(size):
        raise ValueError(
            f"{packed.shape[1]} bytes a row cannot hold {size} ternary codes; expected {ternary_bytes(size)}"
        )
    digits = (packed.to(torch.int64)[:, :, None] // _powers_of_3(packed.device)) % 3
    return (digits.flatten(1)[:, :size] - 1).to(torch.int8)


def ternary_bytes(size: int) -> int:
    """Bytes of a packed row of ternary codes: `ceil(size / 5)`."""
    return -(-size // _TRITS_PER_BYTE)


def _powers_of_3(device: torch.device) -> Tensor:
    return torch.tensor([1, 3, 9, 27, 81], device=device)


def packed_bytes(size: int, bits: int) -> int:
    """Bytes of a packed row: `ceil(size · bits / 8)`."""
    return -(-size * bits // 8)


def _check(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"cannot pack codes of {bits} bits; expected 1 to 8")
