"""A llama2.c checkpoint made of random numbers, with grouped-query attention, and its scored vocabulary."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

DIM, FFN, LAYERS, HEADS, KV_HEADS, CONTEXT = 16, 40, 2, 4, 2, 64
PIECES = [b" ", b"a", b"b", b"c", b" a", b"ab", b"bc", b" ab", b"abc"]
SCORES = [-100.0, -101.0, -102.0, -103.0, -3.0, -2.0, -1.0, -4.0, -5.0]
VOCAB = 259 + len(PIECES)


def write(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write `tiny.bin` and `tok.bin`; the head is tied to the embedding."""
    rng = np.random.default_rng(seed)
    kv_dim = DIM // HEADS * KV_HEADS
    shapes = [
        (VOCAB, DIM),
        (LAYERS, DIM),
        (LAYERS, DIM, DIM),
        (LAYERS, kv_dim, DIM),
        (LAYERS, kv_dim, DIM),
        (LAYERS, DIM, DIM),
        (LAYERS, DIM),
        (LAYERS, FFN, DIM),
        (LAYERS, DIM, FFN),
        (LAYERS, FFN, DIM),
        (DIM,),
        (2, CONTEXT, DIM // HEADS // 2),
    ]
    weights = folder / "tiny.bin"
    tensors = b"".join((0.5 * rng.standard_normal(shape)).astype("<f4").tobytes() for shape in shapes)
    weights.write_bytes(struct.pack("<7i", DIM, FFN, LAYERS, HEADS, KV_HEADS, VOCAB, CONTEXT) + tensors)
    tokenizer = folder / "tok.bin"
    names = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [f"<0x{byte:02X}>".encode() for byte in range(256)] + PIECES
    scores = [0.0] * 259 + SCORES
    records = (struct.pack("<fi", score, len(name)) + name for name, score in zip(names, scores, strict=True))
    tokenizer.write_bytes(struct.pack("<i", 8) + b"".join(records))
    return weights, tokenizer
