"""The steps in which formats write: refuse, lay out, settle, save, and put in place.

A format that inherits from `BaseFormat` states its refusal, its layout and its save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from slmquant.artifact import Artifact
from slmquant.errors import RefusedError
from slmquant.files import atomic_dir, atomic_file, folder_bytes
from slmquant.formats.common.contract import Placement, Written, settle
from slmquant.model.computing.quantized_model import QuantizedModel

Content = TypeVar("Content")


@dataclass(frozen=True)
class Laid(Generic[Content]):
    """One weight, ready to be saved.

    Attributes:
        placement: How it is stored.
        content: What `save` needs in order to store it, in whatever form the format chooses.
    """

    placement: Placement
    content: Content


class BaseFormat(ABC, Generic[Content]):
    """A format (see `contract.Format`) whose `place` and `write` follow from `refusal`, `lay_out` and `save`.

    A subclass also sets `title`, `summary` and `extra`, and defines `read`.

    Attributes:
        name: Name of the format and of its module.
        suffix: `.gguf` for a file; empty for a folder.
    """

    name: str
    suffix: str

    @abstractmethod
    def refusal(self, quantized: QuantizedModel) -> str | None:
        """Why the model as a whole cannot be written; None if it can. See `Format.refusal`."""

    @abstractmethod
    def lay_out(self, quantized: QuantizedModel, otherwise: str | None) -> Iterable[Laid[Content]]:
        """Every weight in the model's order, with its placement; `otherwise` is the type for weights that do not fit.

        Raises:
            UnknownNameError: The format has no type `otherwise`.
        """

    @abstractmethod
    def save(self, artifact: Artifact, laid: Sequence[Laid[Content]], path: Path) -> Sequence[str] | None:
        """Write everything to `path`, which becomes the target once this returns.

        Args:
            artifact: The model, its tokenizer and origin.
            laid: The weights, as `lay_out` returned them.
            path: A temporary file, or an empty temporary folder if the format has no suffix.

        Returns:
            Further sentences for the user, if any.

        Raises:
            RefusedError: A problem shows only now.
        """

    def place(self, quantized: QuantizedModel, otherwise: str | None = None) -> tuple[Placement, ...]:
        """How each weight would be stored; see `Format.place`."""
        return tuple(one.placement for one in self.lay_out(quantized, otherwise))

    def write(self, artifact: Artifact, path: Path, otherwise: str | None = None) -> Written:
        """Write `artifact` to `path`, whole or not at all; see `Format.write`."""
        quantized = artifact.quantized
        if (reason := self.refusal(quantized)) is not None:
            raise RefusedError(f"{self.name}: {reason}")
        laid = tuple(self.lay_out(quantized, otherwise))
        placements = tuple(one.placement for one in laid)
        settle(self.name, placements, otherwise)
        with atomic_file(path) if self.suffix else atomic_dir(path) as temporary:
            remarks = self.save(artifact, laid, temporary)
        stored_bytes = path.stat().st_size if self.suffix else folder_bytes(path)
        return Written(path, self.name, stored_bytes, placements, tuple(remarks or ()))
