"""The fingerprint of a checkpoint: SHA-256 over its tensors, whatever files they are spread over.

Read from the files that transformers loads, in the order in which it looks for them, without torch; a truncated or
damaged file is found on the way. The bytes are read once in every process: a file whose content changed under the same
size and time is another model. SHA-256 takes 0.2 s for 270 MB on a processor with instructions for it.
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
    """One tensor of a safetensors file, as the file's header describes it."""

    file: Path
    name: str
    dtype: str
    """As safetensors writes it: `F32`, `BF16`, `F8_E4M3`, ..."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    stop: int


_known: dict[Path, tuple[_State, str]] = {}
"""What this process has read: folder → state of its files and their fingerprint."""


def fingerprint(folder: Path) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors of a folder, sorted by name.

    The same weights give the same fingerprint in one file or in many. A process that asks again, with files of the
    same size, times and place on the disk, is answered from memory.

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
    """The same, read from the files whether or not it is remembered."""
    return _digest(stored_tensors(folder))


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """Every tensor that a folder's weight files hold.

    Raises:
        ModelError: There is no safetensors file, one is truncated or malformed, two hold a tensor of one name, or the
            index names a tensor that none holds.
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
    """The weight files of a folder that transformers loads: `model.safetensors`, else the shards of its index.

    Raises:
        ModelError: There is none, a shard is missing, or the index is malformed or names files outside the folder.
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
            f"{folder} holds pickled weights only ({pickled[0]}), and loading those can run code; "
            "convert them to safetensors where you trust them (model.save_pretrained)"
        )
    raise ModelError(f"{folder} has no model.safetensors; expected weights in transformers' form")


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor → shard as the index says it; shards are plain names of files beside it."""
    index = folder / INDEX
    with reading(index, "an index of shards"):
        named = json.loads(index.read_bytes())["weight_map"]
    if not isinstance(named, dict) or not named:
        raise ModelError(f"{index} names no tensors in its weight_map; fetch it again")
    for shard in named.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ModelError(f"{index} names {shard!r}; expected the plain name of a .safetensors file beside it")
    return named


def _state(files: list[Path]) -> _State:
    found = [(file.name, file.stat()) for file in files]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in found)


def _tensors(file: Path) -> list[StoredTensor]:
    """The header of a safetensors file, checked against its size."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= min(_LARGEST_HEADER_BYTES, max(0, size - _LENGTH_BYTES)):
            raise ModelError(f"{file} ({size} bytes) is truncated or no safetensors file; fetch it again")
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
    reached = data
    for tensor in sorted(tensors, key=lambda t: (t.start, t.stop)):
        if tensor.start != reached or tensor.stop < tensor.start:
            raise ModelError(
                f"{file} has a damaged header ({tensor.name} begins at byte {tensor.start}); fetch it again"
            )
        reached = tensor.stop
    if size != reached:
        raise ModelError(f"{file} has {size} bytes, its header promises {reached}: truncated; fetch it again")
    return tensors


def _digest(tensors: list[StoredTensor]) -> str:
    digest = hashlib.sha256()
    for tensor in sorted(tensors, key=lambda t: t.name):
        digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape]).encode())
        for chunk in _chunks(tensor):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(tensor: StoredTensor) -> Iterator[memoryview]:
    """The bytes of a tensor, read piece by piece: a mapped file would count as memory of the process."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, tensor.stop - tensor.start)))
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        left = tensor.stop - tensor.start
        while left > 0:
            read = file.readinto(buffer[: min(left, len(buffer))])
            if not read:
                raise ModelError(f"{tensor.file} ends within {tensor.name}: truncated; fetch it again")
            yield buffer[:read]
            left -= read
