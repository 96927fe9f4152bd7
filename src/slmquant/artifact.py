"""A quantized model with tokenizer and origin: returned by `quantize`, written by formats, read by `open_artifact`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from slmquant import discovery
from slmquant.files import check_output
from slmquant.model.sources.resolve import place_of, public_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slmquant.model.computing.quantized_model import QuantizedModel
    from slmquant.model.size import ModelSize


@dataclass(frozen=True)
class Artifact:
    """A quantized model with its tokenizer and its origin.

    Attributes:
        quantized: The model and its codes.
        tokenizer: The model's tokenizer.
        source: The full-precision model, as the caller named it.
        source_sha256: Fingerprint of the full-precision weights.
    """

    quantized: QuantizedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    source_sha256: str

    @property
    def size(self) -> ModelSize:
        """Stored size of the model."""
        return self.quantized.size

    @property
    def public_source(self) -> str:
        """`source` without folders, so that files given to others do not reveal paths of this machine."""
        return public_name(self.source)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the artifact in slmquant's native format, atomically; `open_artifact` reads it back.

        Args:
            folder: Target folder. If it already holds a native artifact, that is replaced.
            overwrite: Also replace a folder with other contents.

        Raises:
            OutputError: `folder` is a file, a folder with other contents, or the source model itself.
            SpaceError: The disk is full.
        """
        native = cast(_Native, discovery.by_name("slmquant.formats", "native"))
        place = place_of(self.source)
        check_output(Path(folder), True, native.is_native, overwrite, place, least_bytes=self.size.stored_bytes)
        return native.save(self, Path(folder))


class _Native(Protocol):
    """Interface of the native format, which is loaded by name because formats import this module."""

    def is_native(self, folder: Path) -> bool: ...

    def save(self, artifact: Artifact, folder: Path) -> Path: ...
