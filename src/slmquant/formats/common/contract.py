"""What a format is: a way in which a quantized model lies on disk for some engine, and an account of how it fits.

Nothing is substituted in silence. Where a weight cannot be held as the scheme asked, `place` says which, why, and what
share of the model it is; `write` refuses until the user names what to store it as instead (`otherwise`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Protocol, cast

from packaging.requirements import Requirement
from torch import Tensor

from slmquant.artifact import Artifact
from slmquant.errors import RefusedError, UnavailableError
from slmquant.model.computing.quantized_model import QuantizedModel


@dataclass(frozen=True)
class Placement:
    """How one weight comes to lie in the file.

    Attributes:
        name: Its module name.
        asked: What the scheme asked for ("INT4, groups of 64").
        stored: The format's own name for what it becomes ("Q4_0").
        parameters: Its elements; a tied weight is placed once.
        stored_bytes: What it takes in the file.
        exact: Whether the file says the codes that were evaluated, with nothing rounded a second time but scales to
            the format's own 16 bits.
        reason: Why it is not stored as asked; None where it is.
    """

    name: str
    requested: str
    stored_as: str
    parameters: int
    stored_bytes: int
    exact: bool
    reason: str | None = None


@dataclass(frozen=True)
class Written:
    """A file or folder that was written, whole.

    Attributes:
        path: Where.
        format: Name of the format.
        stored_bytes: What it takes on disk, tokenizer and all.
        placements: Every weight of the model, in the model's order.
        remarks: What else a user should know: sentences.
    """

    path: Path
    format: str
    stored_bytes: int
    placements: tuple[Placement, ...]
    remarks: tuple[str, ...] = ()


class Format(Protocol):
    """One way to lie on disk. A module of this package holds one as `FORMAT`; its name is the file's name."""

    @property
    def title(self) -> str:
        """Its name in the field ("GGUF")."""
        ...

    @property
    def summary(self) -> str:
        """What it is for, in a line."""
        ...

    @property
    def suffix(self) -> str:
        """`.gguf` for a file; empty for a folder."""
        ...

    @property
    def extra(self) -> str | None:
        """The optional dependency that writes it (`pip install slmquant[extra]`); None where nothing is missing."""
        ...

    def refusal(self, quantized: QuantizedModel) -> str | None:
        """Why no such model can be written, whatever becomes of single weights; None where it can.

        An architecture that the format's engines lack, activations or a cache that they do not round, rotations done
        while the model runs, side branches.
        """
        ...

    def place(self, quantized: QuantizedModel, otherwise: str | None = None) -> Sequence[Placement]:
        """How each weight would be stored; `otherwise` is the type for those that cannot be stored as asked.

        Raises:
            UnknownNameError: The format has no type `otherwise`.
        """
        ...

    def write(self, artifact: Artifact, path: Path, otherwise: str | None = None) -> Written:
        """Write `artifact` to `path`, whole or not at all.

        Args:
            artifact: What the file is made from.
            path: Where.
            otherwise: The type for weights that cannot be stored as asked.

        Raises:
            RefusedError: `refusal` has a reason, or a weight cannot be stored as asked and `otherwise` is None.
            UnknownNameError: The format has no type `otherwise`.
            SourceError: The disk is full.
        """
        ...

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """Module name → float32 weight as an engine that loads the file would compute with it.

        Raises:
            ModelError: The file is truncated, damaged, or of a version that is not known.
        """
        ...


def accept_any_tokenization(fmt: Format) -> Format:
    """`fmt`, set to write files whose engine cuts text into other tokens; as it is if it does not check that."""
    known: object = fmt
    if is_dataclass(known) and not isinstance(known, type) and hasattr(known, "any_tokenization"):
        return cast(Format, replace(known, any_tokenization=True))
    return fmt


def check_installed(name: str, extra: str | None) -> None:
    """Say what a format lacks before anything is computed for it.

    Args:
        name: Of the format.
        extra: The optional dependency that it names; None where it needs nothing more.

    Raises:
        UnavailableError: A package of that extra is not installed.
    """
    asked = [Requirement(line) for line in requires("slmquant") or ()] if extra is not None else []
    missing = [
        package.name
        for package in asked
        if package.marker is not None
        and package.marker.evaluate({"extra": str(extra)})
        and not package.marker.evaluate({"extra": ""})
        and not _is_installed(package.name)
    ]
    if missing:
        raise UnavailableError(f"{name}: not installed: {', '.join(missing)}; pip install 'slmquant[{extra}]'")


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def settle(fmt: str, placements: Sequence[Placement], otherwise: str | None) -> None:
    """Refuse what would be stored otherwise than asked, unless the user said as what.

    Raises:
        RefusedError: Names the weights, their share of the model, and the reason.
    """
    misfits = [placement for placement in placements if placement.reason is not None]
    if not misfits or otherwise is not None:
        return
    share = sum(p.parameters for p in misfits) / sum(p.parameters for p in placements)
    first, more = misfits[0], len(misfits) - 1
    named = f"{first.name!r}" + (f" and {more} more" if more else "")
    raise RefusedError(
        f"{fmt}: {named}, {share:.1%} of the weights, cannot be stored as {first.requested}: {first.reason}; "
        f"choose another scheme, or say what to store them as (--otherwise {first.stored_as})"
    )


def ends_of_text(quantized: QuantizedModel) -> tuple[int, ...]:
    """The tokens that end a text when the model writes it."""
    generation = quantized.model.generation_config
    stated = getattr(generation, "eos_token_id", None)
    return tuple(stated) if isinstance(stated, list | tuple) else () if stated is None else (int(stated),)
