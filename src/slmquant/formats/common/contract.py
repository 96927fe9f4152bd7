"""The contract of a format: how to store a quantized model for an engine, and how each weight fits.

No weight is substituted silently. If a weight cannot be stored as the scheme requests, `place` names the weight and the
reason, and `write` refuses with its share of the model until the user chooses a substitute type (`otherwise`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from packaging.requirements import Requirement
from torch import Tensor

from slmquant.artifact import Artifact
from slmquant.errors import RefusedError, UnavailableError
from slmquant.model.computing.quantized_model import QuantizedModel


@dataclass(frozen=True)
class Placement:
    """How one weight is stored in the file.

    Attributes:
        name: Its module name.
        requested: The numbers that the scheme requests ("INT4, groups of 64").
        stored_as: The format's own name for the stored type ("Q4_0").
        parameters: Number of elements; a tied weight is counted once.
        stored_bytes: Its size in the file.
        exact: Whether the file holds the evaluated codes; only scales may be rounded again, to the format's 16 bits.
        reason: Why it is not stored as requested; None if it is.
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
    """A completely written file or folder.

    Attributes:
        path: Its path.
        format: Name of the format.
        stored_bytes: Size on disk, tokenizer included.
        placements: One for each weight, in the model's order.
        remarks: Further sentences for the user.
    """

    path: Path
    format: str
    stored_bytes: int
    placements: tuple[Placement, ...]
    remarks: tuple[str, ...] = ()


class Format(Protocol):
    """A file format. Each module or package in `formats` defines one as `FORMAT`, named after the module."""

    @property
    def title(self) -> str:
        """Its common name ("GGUF")."""
        ...

    @property
    def summary(self) -> str:
        """Its purpose, in one line."""
        ...

    @property
    def suffix(self) -> str:
        """`.gguf` for a file; empty for a folder."""
        ...

    @property
    def extra(self) -> str | None:
        """Optional dependency needed to write it (`pip install slmquant[extra]`); None if there is none."""
        ...

    def refusal(self, quantized: QuantizedModel) -> str | None:
        """Why the model as a whole cannot be written, apart from single weights; None if it can.

        Examples: an architecture that the format's engines lack, activations or a KV cache that they do not round,
        online rotations, side branches.
        """
        ...

    def place(self, quantized: QuantizedModel, otherwise: str | None = None) -> Sequence[Placement]:
        """How each weight would be stored; `otherwise` is the type for weights that do not fit.

        Raises:
            UnknownNameError: The format has no type `otherwise`.
        """
        ...

    def write(self, artifact: Artifact, path: Path, otherwise: str | None = None) -> Written:
        """Write `artifact` to `path`, whole or not at all.

        Args:
            artifact: The model, its tokenizer and origin.
            path: Target file or folder.
            otherwise: The type for weights that cannot be stored as requested.

        Raises:
            RefusedError: `refusal` has a reason, or a weight cannot be stored as requested and `otherwise` is None.
            UnknownNameError: The format has no type `otherwise`.
            SpaceError: The disk is full.
        """
        ...

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """Module name → float32 weight, as an engine that loads the file computes with it.

        Raises:
            ModelError: The file is truncated, damaged, or of an unknown version.
        """
        ...


@runtime_checkable
class StatesContext(Protocol):
    """Optional format capability: a file without a transformers config states the length of its context."""

    def context_limit(self, path: Path) -> int | None:
        """Number of tokens of context that `path` states; None if it states none.

        Raises:
            ModelError: The file is damaged.
        """
        ...


@runtime_checkable
class PackedCheckpoint(Protocol):
    """Optional format capability: a folder for transformers whose config names the layout of its packed weights."""

    @property
    def quant_method(self) -> str:
        """The layout's name, as in `quantization_config`."""
        ...

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """As `Format.read`."""
        ...


def accept_any_tokenization(fmt: Format) -> Format:
    """`fmt` with its tokenization check reduced to a remark; unchanged if it has no such check."""
    known: object = fmt
    if is_dataclass(known) and not isinstance(known, type) and hasattr(known, "any_tokenization"):
        return cast(Format, replace(known, any_tokenization=True))
    return fmt


def check_installed(name: str, extra: str | None) -> None:
    """Check that the packages of a format's optional dependency are installed, before anything is computed.

    Args:
        name: Name of the format.
        extra: Name of its optional dependency; None if it has none.

    Raises:
        UnavailableError: A package of the optional dependency is not installed.
    """
    requirements = [Requirement(line) for line in requires("slmquant") or ()] if extra is not None else []
    missing = [
        package.name
        for package in requirements
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
    """Refuse weights that cannot be stored as requested, unless the user chose a substitute type.

    Raises:
        RefusedError: A weight does not fit; the message names it, the share of misfits, and the reason.
    """
    misfits = [placement for placement in placements if placement.reason is not None]
    if not misfits or otherwise is not None:
        return
    share = sum(p.parameters for p in misfits) / sum(p.parameters for p in placements)
    first, more = misfits[0], len(misfits) - 1
    named = f"{first.name!r}" + (f" and {more} more" if more else "")
    raise RefusedError(
        f"{fmt}: {named}, {share:.1%} of the weights, cannot be stored as {first.requested}: {first.reason}; "
        f"choose another scheme, or a type to store them as (--otherwise {first.stored_as})"
    )


def ends_of_text(quantized: QuantizedModel) -> tuple[int, ...]:
    """The tokens that end a text when the model writes it."""
    generation = quantized.model.generation_config
    stated = getattr(generation, "eos_token_id", None)
    return tuple(stated) if isinstance(stated, list | tuple) else () if stated is None else (int(stated),)
