"""The fingerprint of a checkpoint: SHA-256 over its tensors, whatever files they are spread over.

Read from the safetensors files themselves, without torch; a truncated or damaged file is found on the way.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from dataclasses import dataclass
from pathlib import Path

from slmquant.boundary import guarded, or_none, reading
from slmquant.errors import ModelError
from slmquant.files import atomic_file, cache_dir

_LENGTH_BYTES = 8
_LARGEST_HEADER_BYTES = 100_000_000  # safetensors' own limit
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class _StoredTensor:
    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def fingerprint(folder: Path) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors of a folder, sorted by name.

    The same weights give the same fingerprint in one file or in many. It is remembered in the cache under the
    files' sizes and times, so that the second call is instant.

    Raises:
        ModelError: There is no safetensors file, or one is truncated or malformed.
    """
    folder = folder.resolve()
    files = safetensors_files(folder)
    state: list[list[object]] = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    memory = cache_dir() / "fingerprints" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:32]}.json"
    remembered = _remembered(memory, state)
    if remembered is not None:
        return remembered
    digest = compute_fingerprint(folder)
    with atomic_file(memory) as temporary:
        temporary.write_text(json.dumps({"state": state, "sha256": digest}))
    return digest


def compute_fingerprint(folder: Path) -> str:
    """The same, read from the files whether or not it is remembered."""
    return _digest([tensor for file in safetensors_files(folder) for tensor in _tensors(file)])


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files of a folder in transformers' form: its index's shards, or `model.safetensors`.

    Raises:
        ModelError: There is none, or a shard is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        with reading(index, "an index of shards"):
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise ModelError(f"{folder} lacks {missing[0]}, which {index.name} names; fetch it again")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder} holds pickled weights only ({pickled[0]}), and loading those can run code; "
            "convert them to safetensors where you trust them (model.save_pretrained)"
        )
    raise ModelError(f"{folder} has no model.safetensors; expected weights in transformers' form")


def _remembered(memory: Path, state: list[list[object]]) -> str | None:
    def read() -> str | None:
        entry = json.loads(memory.read_text())
        return str(entry["sha256"]) if entry["state"] == state else None

    return or_none(read)


def _tensors(file: Path) -> list[_StoredTensor]:
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
            _StoredTensor(
                file,
                name,
                str(entry["dtype"]),
                tuple(entry["shape"]),
                *(data + o for o in entry["data_offsets"]),
            )
            for name, entry in header.items()
        ]
    expected = max((tensor.stop for tensor in tensors), default=data)
    if size != expected:
        raise ModelError(f"{file} has {size} bytes, its header promises {expected}: truncated; fetch it again")
    return tensors


def _digest(tensors: list[_StoredTensor]) -> str:
    digest = hashlib.sha256()
    maps: dict[Path, mmap.mmap] = {}
    try:
        for tensor in sorted(tensors, key=lambda t: t.name):
            if tensor.file not in maps:
                with tensor.file.open("rb") as opened:
                    maps[tensor.file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape]).encode())
            for start in range(tensor.start, tensor.stop, _CHUNK_BYTES):
                digest.update(maps[tensor.file][start : min(tensor.stop, start + _CHUNK_BYTES)])
    finally:
        for opened_map in maps.values():
            opened_map.close()
    return digest.hexdigest()
