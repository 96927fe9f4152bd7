"""The contract of formats: write a model and read it back, or refuse with a reason. Shipped for plug-ins, too.

In a test:

    from slmquant.testing.format_contract import check_format

    def test_my_format(tmp_path):
        check_format("my_format", artifact, tmp_path)
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from slmquant import formats
from slmquant.artifact import Artifact
from slmquant.errors import RefusedError, SlmquantError
from slmquant.formats.common.contract import Format, Placement, Written
from slmquant.testing.contract import ContractError, Outcome, demand, demand_described

if TYPE_CHECKING:
    from collections.abc import Iterator

SCALE_TOLERANCE = 2**-10
"""Largest relative error of a weight stored `exact`, from rounding scales to a format's own 16 bits."""


def check_format(name: str, artifact: Artifact, folder: Path, otherwise: str | None = None) -> Outcome:
    """Check a format's contract on one artifact.

    The format describes itself. It refuses in a sentence, and then writes nothing; or it writes one file or folder. The
    file's account of weights and bytes adds up, weights marked as exact read back as they were evaluated, and reading a
    damaged file raises an error of slmquant's own.

    Args:
        name: Name of the format.
        artifact: The artifact to write; its parameters should be exact in bfloat16, which most formats store.
        folder: An empty folder to work in.
        otherwise: The format's type for weights that cannot be stored as requested.

    Raises:
        ContractError: The format breaks a promise; the message says which.
    """
    fmt = formats.load(name)
    with _about(name, artifact):
        demand_described(fmt, "title", "summary", "suffix")
        demand(fmt.extra is None or isinstance(fmt.extra, str), f"extra is a name or None; got {fmt.extra!r}")
        path = folder / f"model{fmt.suffix}"
        if (reason := fmt.refusal(artifact.quantized)) is None:
            misfit = _misfit(fmt.place(artifact.quantized), artifact)
            reason = misfit if otherwise is None else None
        if reason is not None:
            _check_refusal(fmt, artifact, path, reason)
            return Outcome(reason)
        try:
            written = fmt.write(artifact, path, otherwise)
        except RefusedError as refusal:  # some problems show only in the finished file
            _check_nothing_left(path)
            return Outcome(str(refusal))
        _check_written(fmt, artifact, path, written)
        return Outcome(None, written.remarks)


@contextmanager
def _about(name: str, artifact: Artifact) -> Iterator[None]:
    try:
        yield
    except ContractError as error:
        raise ContractError(f"{name} with {artifact.quantized.scheme}: {error}") from None


def _misfit(placements: Sequence[Placement], artifact: Artifact) -> str | None:
    """Check the account of weights; the reason why one does not fit, or None if all do."""
    placed = sum(placement.parameters for placement in placements)
    demand(
        placed == artifact.quantized.size.parameters,
        f"places every parameter once: {artifact.quantized.size.parameters:,}, not {placed:,}",
    )
    misfits = [placement for placement in placements if placement.reason is not None]
    demand(not any(misfit.exact for misfit in misfits), "a weight that does not fit is not stored exactly")
    return misfits[0].reason if misfits else None


def _check_refusal(fmt: Format, artifact: Artifact, path: Path, reason: str) -> None:
    demand(len(reason) > 20, f"a refusal is a sentence; got {reason!r}")
    try:
        fmt.write(artifact, path)
    except RefusedError:
        _check_nothing_left(path)
    else:
        raise ContractError("writes what it refuses")


def _check_nothing_left(path: Path) -> None:
    left = [entry.name for entry in path.parent.iterdir()]
    demand(not left, f"leaves nothing behind when it refuses; found {left}")


def _check_written(fmt: Format, artifact: Artifact, path: Path, written: Written) -> None:
    demand(path.is_dir() == (not fmt.suffix) and path.exists(), f"writes {'a file' if fmt.suffix else 'a folder'}")
    demand([p.name for p in path.parent.iterdir()] == [path.name], "leaves nothing beside what it writes")
    on_disk = _bytes(path)
    demand(
        written.stored_bytes == on_disk, f"says what it takes on disk: {on_disk:,} bytes, not {written.stored_bytes:,}"
    )
    placed = sum(placement.stored_bytes for placement in written.placements)
    demand(placed <= on_disk, f"weights of {placed:,} bytes fit into a file of {on_disk:,}")
    _check_read(fmt, artifact, path, written.placements)
    _check_damage(fmt, path)


def _check_read(fmt: Format, artifact: Artifact, path: Path, placements: Sequence[Placement]) -> None:
    read, quantized = fmt.read(path), artifact.quantized
    for placement in placements:
        codes = quantized.weights.get(placement.name)
        demand(placement.name in read or codes is None, f"reads back {placement.name}")
        if codes is None or not placement.exact:
            continue
        expected, found = codes.dequantize(), read[placement.name].float()
        demand(found.shape == expected.shape, f"{placement.name} keeps its shape {tuple(expected.shape)}")
        distance = float((found - expected).abs().max() / expected.abs().max().clamp_min(torch.finfo().tiny))
        demand(
            distance <= SCALE_TOLERANCE,
            f"{placement.name} is stored exactly; it differs by {distance:.2g} of its range",
        )


def _check_damage(fmt: Format, path: Path) -> None:
    """Check that reading a copy whose largest file is cut in half raises an error."""
    damaged = path.parent / f"damaged{fmt.suffix}"
    shutil.copytree(path, damaged) if path.is_dir() else shutil.copy(path, damaged)
    files = [p for p in damaged.rglob("*") if p.is_file()] if damaged.is_dir() else [damaged]
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    try:
        for weight in fmt.read(damaged).values():
            weight.float().sum()
    except SlmquantError:
        return
    except Exception as error:
        raise ContractError(f"says that a damaged file is damaged; it raises {type(error).__name__}") from error
    raise ContractError(f"does not notice that half of {largest.name} is gone")


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
