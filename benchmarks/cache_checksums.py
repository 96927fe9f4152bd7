"""Compares checksums for the cache: seconds to check a file that the operating system still has in memory.

    python benchmarks/cache_checksums.py --megabytes 500

Processor seconds, the best of four.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import xxhash
from rich.console import Console
from rich.table import Table

_CHUNK_BYTES = 1 << 20


def seconds(path: Path, update: Callable[[memoryview], object]) -> float:
    """Processor seconds to read a file and to give every piece of it to `update`."""
    tries = []
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    for _ in range(4):
        started = time.process_time()
        with path.open("rb", buffering=0) as file:
            while read := file.readinto(buffer):
                update(buffer[:read])
        tries.append(time.process_time() - started)
    return min(tries)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    size = parser.parse_args().megabytes * 1_000_000
    ways: dict[str, Callable[[memoryview], object]] = {
        "reading alone": lambda _piece: None,
        "XXH3, 128 bits": xxhash.xxh3_128().update,
        "CRC-32 (zlib)": zlib.crc32,
        "SHA-256": hashlib.sha256().update,
        "BLAKE2b": hashlib.blake2b().update,
    }
    table = Table("checksum", "s", "GB/s", box=None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(os.urandom(size))
        for name, update in ways.items():
            taken = seconds(path, update)
            table.add_row(name, f"{taken:.3f}", f"{size / taken / 1e9:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
