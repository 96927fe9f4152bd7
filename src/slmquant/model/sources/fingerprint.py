"""The fingerprint of a checkpoint: SHA-256 over its tensors, independent of their distribution over files.

It reads the files that transformers loads, with the same precedence, without torch; truncated or damaged files are
detected. The bytes are read once per process, so a file that was changed with the same size and time gets another
fingerprint. SHA-256 takes 0.2 s for 270 MB on a processor with SHA instructions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slmquant.boundary import guarded, reading
from slmquant.errors import ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LENGTH_BYTES = 8
_LARGEST_HEADER_BYTES = 100_000_000  # safetensors' own limit
_CHUNK_BYTES = 1 << 22

_State = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file, as described in the file's header."""

    file: Path
    name: str
    dtype: str
    """safetensors' name of the dtype: `F32`, `BF16`, `F8_E4M3`, ..."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    stop: int


_known: dict[Path, tuple[_State, str]] = {}
"""Fingerprints computed in this process: folder → state of its files, and fingerprint."""


def fingerprint(folder: Path) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors of a folder, sorted by name.

    The same weights have the same fingerprint in one file or in many. It is cached in the process as long as the files
    keep their size, times and inodes.

    Raises:
        ModelError: There is no safetensors file, or one is truncated or malformed.
    """
    folder = folder.resolve()
    state = _state(safetensors_files(folder))
    known = _known.get(folder)
    if known is None or known[0] != state:
        known = _known[folder] = state, compute_fingerprint(folder)
    return known[1]


def compute_fingerprint(folder: Path) -> str:
    """Compute the fingerprint from the files, without the cache."""
    return _digest(stored_tensors(folder))


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """All tensors in a folder's weight files.

    Raises:
        ModelError: There is no safetensors file, one is truncated or malformed, two hold a tensor of the same name, or
            the index names a tensor that no file holds.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in safetensors_files(folder):
        for tensor in _tensors(file):
            if tensor.name in tensors:
                both = f"{tensors[tensor.name].file.name} and {file.name}"
                raise ModelError(f"{folder}: {both} both hold {tensor.name}; fetch the model again")
            tensors[tensor.name] = tensor
    if not (folder / SINGLE).exists() and (absent := sorted(_weight_map(folder).keys() - tensors.keys())):
        raise ModelError(
            f"{folder}: {INDEX} names {len(absent)} tensors that no file holds, the first {absent[0]}; fetch it again"
        )
    return list(tensors.values())


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files that transformers loads: `model.safetensors`, else the shards named in the index.

    Raises:
        ModelError: There is no weight file, a shard is missing, or the index is malformed or names files outside the
            folder.
    """
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if (folder / INDEX).exists():
        names = sorted(set(_weight_map(folder).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder} lacks {missing[0]}, which {INDEX} names; fetch it again")
        return [folder / name for name in names]
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder} holds only pickled weights ({pickled[0]}), which can run code when loaded; "
            "if you trust them, convert them to safetensors (model.save_pretrained)"
        )
    raise ModelError(f"{folder} has no model.safetensors; expected weights in transformers' format")


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor → shard, from the index; shards must be plain file names in the same folder."""
    index = folder / INDEX
    with reading(index, "an index of shards"):
        named = json.loads(index.read_bytes())["weight_map"]
    if not isinstance(named, dict) or not named:
        raise ModelError(f"{index} names no tensors in its weight_map; fetch it again")
    for shard in named.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ModelError(
                f"{index} names {shard!r}; expected the plain name of a .safetensors file in the same folder"
            )
    return named


def _state(files: list[Path]) -> _State:
    stats = [(file.name, file.stat()) for file in files]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats)


def _tensors(file: Path) -> list[StoredTensor]:
    """Read the header of a safetensors file, and check it against the file size."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= min(_LARGEST_HEADER_BYTES, max(0, size - _LENGTH_BYTES)):
            raise ModelError(f"{file} ({size} bytes) is truncated or not a safetensors file; fetch it again")
        text = opened.read(length)
    data = _LENGTH_BYTES + length
    with guarded(lambda why: f"{file} has a damaged header ({why}); fetch it again"):
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = [
            StoredTensor(
                file,
                name,
                str(entry["dtype"]),
                tuple(int(size) for size in entry["shape"]),
                *(data + int(offset) for offset in entry["data_offsets"]),
            )
            for name, entry in header.items()
        ]
    end = data
    for tensor in sorted(tensors, key=lambda t: (t.start, t.stop)):
        if tensor.start != end or tensor.stop < tensor.start:
            raise ModelError(
                f"{file} has a damaged header ({tensor.name} begins at byte {tensor.start}); fetch it again"
            )
        end = tensor.stop
    if size != end:
        raise ModelError(f"{file} has {size} bytes, but its header states {end}: truncated or damaged; fetch it again")
    return tensors


def _digest(tensors: list[StoredTensor]) -> str:
    digest = hashlib.sha256()
    for tensor in sorted(tensors, key=lambda t: t.name):
        digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape]).encode())
        for chunk in _chunks(tensor):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(tensor: StoredTensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor piece by piece; a mapped file would count as memory of the process."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, tensor.stop - tensor.start)))
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        left = tensor.stop - tensor.start
        while left > 0:
            read = file.readinto(buffer[: min(left, len(buffer))])
            if not read:
                raise ModelError(f"{tensor.file} is truncated: it ends within {tensor.name}; fetch it again")
            yield buffer[:read]
            left -= read
