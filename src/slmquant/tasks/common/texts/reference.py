"""Caches the full-precision model's final hidden states on a text, so that later cells need not run it.

The head computes all logits from a final hidden state. Of the possible things to store it is the smallest without a
notable loss: SmolLM2-135M's state is 576 numbers, its logits are 49,152. The 1,024 most probable tokens with one bucket
for the rest take seven times the space and lose 3 to 8 % of the divergence of a 4-bit and an 8-bit model, namely the
part inside the bucket. `benchmarks/reference_cache.py` prints space, time and error of each way.

States are stored in float16, divided by a power of two per token so that no state is out of range. Compared to float32
this changes a mean divergence by about a hundredth of the noise floor (`noise_floor`) or less; bfloat16, in the same
space, by up to a tenth.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from slmquant.boundary import guarded
from slmquant.cache.entries import discard
from slmquant.cache.write import About, writing
from slmquant.errors import CacheError

__all__ = ["FILE_VERSION", "StatesToKeep", "read_states"]

FILE_VERSION = 3
"""Version of the file's layout; it is part of the entry's key, so files of other versions are never read."""
_STATES = "states.safetensors"


class StatesToKeep:
    """A buffer for the states of all windows, filled window by window, then written.

    Args:
        windows: Number of windows.
    """

    def __init__(self, windows: int) -> None:
        self._windows = windows
        self._states: Float[Tensor, "windows seq hidden"] | None = None
        self._scales: list[Float[Tensor, " seq"]] = []
        self._checksums: list[int] = []

    def add(self, hidden: Float[Tensor, "seq hidden"]) -> None:
        """Add the next window's states."""
        if self._states is None:  # allocated at once: a list joined at the end would take twice the memory
            self._states = torch.empty(self._windows, *hidden.shape, dtype=torch.float16)
        codes, scale = pack(hidden.cpu())
        self._states[len(self._scales)] = codes
        self._scales.append(scale)
        self._checksums.append(_checksum(codes, scale))

    def save(self, entry: Path, about: About) -> None:
        """Write the states to the cache, whole or not at all.

        Raises:
            ValueError: Not all windows were added.
            SpaceError: The disk is full.
        """
        if self._states is None or len(self._scales) < self._windows:
            raise ValueError(f"{len(self._scales)} of {self._windows} windows were added; add all, then save")
        tensors = {
            "states": self._states,
            "scale": torch.stack(self._scales),
            "crc32": torch.tensor(self._checksums),
        }
        with writing(entry, about) as temporary:
            save_file(tensors, temporary / _STATES)


def read_states(entry: Path, start: int, stop: int) -> Float[Tensor, "windows seq hidden"]:
    """Read only the states of windows `start` to `stop`, as float32.

    Their own checksums are checked, too, because a cell reads its windows over many minutes.

    Raises:
        CacheError: The entry is gone or damaged; a damaged one is removed.
    """
    path = entry / _STATES
    with (
        guarded(lambda why: f"cannot read reference states {path} ({why}); measure them again", CacheError),
        safe_open(path, framework="pt") as file,
    ):
        codes, scale, checksums = (file.get_slice(name)[start:stop] for name in ("states", "scale", "crc32"))
    for window, (own_codes, own_scale, checksum) in enumerate(zip(codes, scale, checksums.tolist(), strict=True)):
        if _checksum(own_codes, own_scale) != checksum:
            discard(entry, f"window {start + window} differs from its checksum")
            raise CacheError(f"reference states {path} were damaged in window {start + window}; measure them again")
    return unpack(codes, scale)


def pack(hidden: Float[Tensor, "*tokens hidden"]) -> tuple[Float[Tensor, "*tokens hidden"], Float[Tensor, "*tokens"]]:
    """Split states into float16 numbers of magnitude up to 1 and a power of two per token.

    The error of a number is at most 2⁻¹¹ of its own magnitude, or 2⁻²⁴ of the token's largest if that is more.
    """
    exponent = torch.frexp(hidden.abs().amax(dim=-1)).exponent
    scale = torch.ldexp(torch.ones(exponent.shape), exponent)
    return (hidden.float() / scale[..., None]).half(), scale


def unpack(codes: Float[Tensor, "*tokens hidden"], scale: Float[Tensor, "*tokens"]) -> Float[Tensor, "*tokens hidden"]:
    """The states that `pack` split, in float32."""
    return codes.float().mul_(scale[..., None])


def _checksum(codes: Tensor, scale: Tensor) -> int:
    return zlib.crc32(scale.contiguous().numpy().data, zlib.crc32(codes.contiguous().numpy().data))
