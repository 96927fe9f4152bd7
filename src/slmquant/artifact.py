"""A quantized model with what belongs to it: what `quantize` returns, formats write, and `open_artifact` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from slmquant import plugins
from slmquant.files import check_output
from slmquant.model.sources.resolve import place_of, public_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slmquant.model.computing.quantized_model import QuantizedModel
    from slmquant.model.size import ModelSize


@dataclass(frozen=True)
class Artifact:
    """A quantized model with what belongs to it.

    Attributes:
        quantized: The model and its codes.
        tokenizer: Its tokenizer.
        source: The model source it was made from, as given.
        source_sha256: Fingerprint of the full-precision weights.
    """

    quantized: QuantizedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    source_sha256: str

    @property
    def size(self) -> ModelSize:
        """What it takes to store."""
        return self.quantized.size

    @property
    def public_source(self) -> str:
        """`source` without folders: a file may be given away, and paths of this machine are nobody's business."""
        return public_name(self.source)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write it in slmquant's own format, whole or not at all; `open_artifact` reads it back.

        Args:
            folder: Where. One that holds such a model already is replaced.
            overwrite: Replace a folder of other things, too.

        Raises:
            OutputError: A file lies there, or a folder with other things in it, or what it was made from.
            SpaceError: The disk is full.
        """
        native = cast(_Native, plugins.by_name("slmquant.formats", "native"))
        place = place_of(self.source)
        check_output(Path(folder), True, native.is_native, overwrite, place, least_bytes=self.size.stored_bytes)
        return native.save(self, Path(folder))


class _Native(Protocol):
    """The native format, looked up by name: formats take artifacts, and so stand above this module."""

    def is_native(self, folder: Path) -> bool: ...

    def save(self, artifact: Artifact, folder: Path) -> Path: ...
