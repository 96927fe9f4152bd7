"""Hashes of a model's configuration and tokenizer, which affect its results besides the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from slmquant.errors import ModelError, SlmquantError
from slmquant.files import sha256
from slmquant.model.sources.load import identify
from slmquant.store.inputs import model_key

_CONFIGS = ("config.json", "generation_config.json")
_ABOUT_THE_FILE = ("transformers_version", "_name_or_path")
"""Entries of a configuration that describe its origin, not the model."""
_TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model",
    "*.tiktoken", "sentencepiece*", "spiece*",
)  # fmt: skip


def config_sha256(folder: Path) -> str:
    """SHA-256 of the contents of `config.json` and `generation_config.json`, independent of JSON formatting.

    Raises:
        ModelError: One of them is not valid JSON.
    """
    digest = hashlib.sha256()
    for name in _CONFIGS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise ModelError(f"{path} is not valid JSON ({error}); fetch it again") from error
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if key not in _ABOUT_THE_FILE}
        digest.update(f"{name} {json.dumps(content, sort_keys=True)}\n".encode())
    return digest.hexdigest()


def tokenizer_sha256(folder: Path) -> str:
    """SHA-256 of a tokenizer's files, chat templates included, sorted by name."""
    files = {path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def key_of(source: str, weights: str | None = None) -> str:
    """Cache key of the model that `source` names; see `store.inputs.model_key`.

    Args:
        source: A model source.
        weights: The fingerprint of its source that an artifact states. It alone is the key if the source is missing or
            is another model now. None to use the source as it is.

    Raises:
        UnknownNameError, SourceError, ModelError: As for `identify`, if no fingerprint is given.
    """
    try:
        identity = identify(source)
    except SlmquantError:
        if weights is None:
            raise
        return weights
    if weights not in (None, identity.sha256):
        return weights
    return model_key(identity.sha256, config_sha256(identity.folder), tokenizer_sha256(identity.folder))
