"""ggml's super-blocks of 256 inputs, with fields in the order of its structures (`ggml-common.h` of llama.cpp)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slmquant.core.affine import QuantizedTensor
from slmquant.core.codebooks import Codebook
from slmquant.core.pack import pack, unpack
from slmquant.core.superblocks import SUPER_BLOCK

Bytes = NDArray[np.uint8]
"""`(rows, bytes)`: a weight as stored in the file; rows can be reordered."""

BLOCK = 32
"""Inputs per block of the plain types."""


def super_blocks(weight: QuantizedTensor, name: str) -> Bytes:
    """Pack the codes and scales of a weight into super-blocks of a type that holds them."""
    if isinstance(weight.grid.elements, Codebook):
        return _of_codebook(weight, weight.grid.elements)
    parts = weight.parts
    groups_each = SUPER_BLOCK // weight.group_size
    scales = parts["scale"].reshape(-1, groups_each)
    d, codes = halves(parts["d"]), weight.codes.reshape(-1, SUPER_BLOCK)
    if name == "Q6_K":
        counted = (codes + 32).to(torch.uint8)
        return np.concatenate([_pairs(counted, 64, 4), _pairs(counted >> 4, 32, 2), octets(scales), d], axis=1)
    if name == "Q3_K":
        counted = (codes + 4).to(torch.uint8)
        mask = np.packbits(octets((counted >> 2).reshape(-1, 8, 32)), axis=1, bitorder="little").reshape(-1, 32)
        return np.concatenate([mask, _pairs(counted & 3, 32, 2), _six_bits((scales + 32).to(torch.uint8)), d], axis=1)
    if name == "IQ4_XS":
        counted = (scales + 32).to(torch.uint8)
        head = [octets(pack(counted >> 4, 2)), octets(pack(counted & 15, 4))]
        return np.concatenate([d, *head, nibbles(blocks_of(codes)).reshape(len(codes), -1)], axis=1)
    minima = parts["shift"].reshape(-1, groups_each)
    both = [d, halves(parts["dmin"])]
    if name == "Q2_K":
        return np.concatenate([octets(scales | minima << 4), _pairs(codes, 32, 2), *both], axis=1)
    head = [*both, _six_bits_pairs(scales, minima)]
    if name == "Q5_K":
        fifth = (codes >> 4).reshape(-1, 8, 32)
        head.append(np.packbits(octets(fifth), axis=1, bitorder="little").reshape(-1, 32))
    return np.concatenate([*head, _pairs(codes & 15, 32, 4)], axis=1)


def _of_codebook(weight: QuantizedTensor, book: Codebook) -> Bytes:
    """Places of vectors in the list, signs, and scales of four bits."""
    low, high, signs = book.fields(weight.codes.reshape(-1, SUPER_BLOCK))
    scales = weight.parts["scale"].reshape(len(low), -1)
    if book.name == "IQ3_XXS":  # for each 32 weights a word: 28 signs, below a scale
        bits = unpack(signs, 1, SUPER_BLOCK * 7 // 8, signed=False).reshape(-1, 28).long()
        words = (bits << torch.arange(28)).sum(dim=1) | scales.flatten().long() << 28
        tail = [words.numpy().astype("<u4").view(np.uint8).reshape(len(low), -1)]
    else:
        tail = [*map(octets, (high, signs) if book.name == "IQ3_S" else (signs, high)), octets(pack(scales, 4))]
    return np.concatenate([halves(weight.parts["d"]), octets(low), *tail], axis=1)


def _pairs(codes: Tensor, run: int, bits: int) -> Bytes:
    """Pack codes of `bits` bits; a byte holds codes that are `run` apart, the first lowest."""
    each = 8 // bits
    parts = (codes & (2**bits - 1)).reshape(len(codes), -1, each, run)
    packed = parts[:, :, 0].clone()
    for place in range(1, each):
        packed |= parts[:, :, place] << bits * place
    return octets(packed.reshape(len(codes), -1))


def _six_bits(scales: Tensor) -> Bytes:
    """Sixteen scales of Q3_K in 12 bytes: low halves in the first 8, two high bits each in the last 4."""
    low = (scales[:, :8] & 15) | (scales[:, 8:] & 15) << 4
    high = scales >> 4
    top = high[:, 0:4] | high[:, 4:8] << 2 | high[:, 8:12] << 4 | high[:, 12:16] << 6
    return octets(torch.cat([low, top], dim=1))


def _six_bits_pairs(scales: Tensor, minima: Tensor) -> Bytes:
    """Eight scales and minima of Q4_K and Q5_K in 12 bytes; the first 8 bytes hold high bits of the last four."""
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    third = (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4
    return octets(torch.cat([first, second, third], dim=1))


def blocks_of(codes: Tensor) -> Tensor:
    """Codes with a row for each block of 32."""
    return codes.reshape(-1, BLOCK)


def halves(values: Tensor) -> Bytes:
    """`values` as float16, `(n, 2)` bytes, low byte first."""
    return values.reshape(-1, 1).half().contiguous().numpy().astype("<f2").view(np.uint8)


def octets(codes: Tensor) -> Bytes:
    """Whole numbers of 8 bits as bytes, in the same shape."""
    return codes.contiguous().numpy().view(np.uint8)


def nibbles(blocks: Tensor) -> Bytes:
    """Low four bits of the first half of each block, combined with those of the second half."""
    half = blocks.shape[1] // 2
    return octets((blocks[:, :half] & 15) | (blocks[:, half:] & 15) << 4)
