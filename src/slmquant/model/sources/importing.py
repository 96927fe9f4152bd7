"""Write a model that was read from another format to a folder in transformers' format, with its provenance."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slmquant._version import __version__
from slmquant.files import atomic_dir
from slmquant.model.compatibility.quiet import quiet_transformers
from slmquant.model.sources.fingerprint import compute_fingerprint
from slmquant.model.sources.provenance import PROVENANCE_FILE, Provenance, Rescaling
from slmquant.model.sources.read_gguf import file_type, is_quantized, read_gguf
from slmquant.progress import Progress


def convert_gguf(path: Path, digest: str, folder: Path, progress: Progress) -> Path:
    """Convert the GGUF file `path`, with SHA-256 `digest`, to `folder` in transformers' format.

    The weights are not rescaled. Raises the same errors as `read_gguf`.
    """
    progress.start(f"convert {path.name}", None)
    quantization = file_type(path)
    with quiet_transformers():
        weights, tokenizer = read_gguf(path)
    return write_model(
        folder,
        weights,
        tokenizer,
        name=path.stem,
        source=f"file:{path.name}",
        files={path.name: digest},
        description=(
            f"dequantized from GGUF {quantization}, on-grid"
            if is_quantized(quantization)
            else f"original, from GGUF {quantization}"
        ),
        rescaling=None,
        licence=None,
    )


def write_model(
    folder: Path,
    weights: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    source: str,
    files: dict[str, str],
    description: str,
    rescaling: Rescaling | None,
    licence: str | None,
) -> Path:
    """Write a model with its tokenizer and provenance to `folder`, whole or not at all, and return `folder`."""
    with atomic_dir(folder) as temporary:
        with quiet_transformers():
            weights.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        provenance = Provenance(
            name=name,
            source=source,
            files=files,
            description=description,
            weights_sha256=compute_fingerprint(temporary),
            rescaling=rescaling,
            licence=licence,
            slmquant_version=__version__,
        )
        (temporary / PROVENANCE_FILE).write_text(provenance.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder
