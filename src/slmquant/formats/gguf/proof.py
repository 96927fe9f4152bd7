"""Check that llama.cpp knows the types of a written file, and tokenizes text like the model's tokenizer.

The texts are fixed. They cover what tokenizers differ in (spaces, digits, contractions, accents, scripts), and each of
the tokenizer's added tokens between words. If llama.cpp's wheel is not installed, only kinds of tokenizers that are
known to differ are recognized, from the tokenizer's description.
"""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

from slmquant.errors import RefusedError

_TEXTS = (
    "The cat sat.",
    " leading space",
    "two  spaces   three",
    "tabs\tand\nlines\n\n\nmore",
    "12345 and 3.14, 12 345 678",
    "don't I'LL we're",
    "Café déjà vu, naïve ﬁligree",
    "Cafe\u0301 e\u0301",
    "a\u0308b",
    "日本語 text",
    "😊 ok",
    "__init__ = {'a': 1}",
    "\u200bzero\u00a0nbsp",
    "trailing  ",
    "a\r\nb",
    "A" * 60,
)
_MOST_ADDED = 64
_WHEEL = "cyllama"
_LIMIT_S = 120
_UNKNOWN_TYPE = "invalid ggml type"
"""In what llama.cpp says of a file with a type that it lacks."""
_ASK = """
import json, sys
from cyllama.llama import llama_cpp
llama_cpp.set_log_callback(lambda level, text: print(text, end="", file=sys.stderr))
parameters = llama_cpp.LlamaModelParams()
parameters.use_extra_bufts = False
model = llama_cpp.LlamaModel(sys.argv[1], parameters)
vocabulary = model.get_vocab()
print(json.dumps([list(vocabulary.tokenize(text, True, True)) for text in json.load(sys.stdin)]))
"""


def prove(path: Path, tokenizer: PreTrainedTokenizerBase, rows: int, accept: bool) -> tuple[str, ...]:
    """Check the tokenization of a written file, and return remarks for the user.

    For a tokenizer that normalizes text to Unicode's NFC, as Qwen's do, text that is not in NFC is checked, too, but a
    difference there is only a remark: such text is rare, and all other text is tokenized the same.

    Args:
        path: The written file.
        tokenizer: The model's tokenizer.
        rows: Rows of the embedding; tokens beyond them are not in the file.
        accept: Whether differences become remarks instead of an error.

    Raises:
        RefusedError: llama.cpp lacks a type of the file; or it tokenizes a text differently, or will according to the
            tokenizer's description.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    remarks, tried = [], None
    if find_spec(_WHEEL) is None:
        remarks.append(
            "llama.cpp is not installed, so its tokenization was not checked; pip install 'slmquant[llamacpp]'"
        )
    elif (tried := _differences(path, tokenizer, description, rows)) is None:
        remarks.append("llama.cpp crashed while tokenizing, so its tokenization was not checked")
    known = list(_known_kinds(description)) if tried is None else tried[0]
    unnormalized = _loose(description) if tried is None else tried[1]
    if unnormalized:
        remarks.append(
            "text that is not in Unicode NFC is tokenized differently by llama.cpp, which does not normalize: "
            f"{unnormalized[0]}; normalize text before passing it to llama.cpp"
        )
    if known and not accept:
        raise RefusedError(
            f"gguf: llama.cpp tokenizes text differently from this tokenizer: {known[0]}"
            + (f" and {len(known) - 1} more" if len(known) > 1 else "")
            + "; the file would compute other tokens than were evaluated. Write it anyway with --any-tokenization"
        )
    return (*remarks, *(f"llama.cpp tokenizes text differently: {difference}" for difference in known))


def _differences(
    path: Path, tokenizer: PreTrainedTokenizerBase, description: dict[str, Any], rows: int
) -> tuple[list[str], list[str]] | None:
    """Texts that llama.cpp tokenizes differently: those in NFC, and those that are not; None if it crashed.

    It runs in a separate process, because it aborts on a vocabulary that lacks tokens it relies on.
    """
    loose = _loose(description)
    texts = [*_texts(description, rows), *loose]
    command = [sys.executable, "-c", _ASK, str(path)]
    process = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, encoding="utf-8", errors="replace", timeout=_LIMIT_S
    )
    if process.returncode != 0:
        if unknown := [line for line in process.stderr.splitlines() if _UNKNOWN_TYPE in line]:
            raise RefusedError(
                f"gguf: the installed llama.cpp lacks a type of the file ({unknown[0].strip()}); install a newer one, "
                "or use other types"
            )
        return None
    different: tuple[list[str], list[str]] = ([], [])
    for text, actual in zip(texts, json.loads(process.stdout.splitlines()[-1]), strict=True):
        expected = list(tokenizer(text).input_ids)
        if expected != actual:
            first = next((i for i, pair in enumerate(zip(expected, actual, strict=False)) if pair[0] != pair[1]), None)
            where = "its end" if first is None else f"token {first}"
            different[text in loose].append(f"{text!r} at {where} ({len(expected)} tokens, {len(actual)} in llama.cpp)")
    return different


def _texts(description: dict[str, Any], rows: int) -> Iterator[str]:
    """The test texts whose bytes are all in the vocabulary, and the added tokens that are in the file."""
    vocab = description["model"]["vocab"]
    spelled = None if description["model"].get("byte_fallback") else {c for c in ByteLevel.alphabet() if c in vocab}
    loose = _loose(description)
    words = ("a", " ", "b") if spelled is None or {"a", "b", "Ġ"} <= spelled else ("", "", "")
    added = [token["content"] for token in description["added_tokens"] if token["id"] < rows][:_MOST_ADDED]
    around = [f"{words[0]}{token}{words[2]}" for token in added]
    around += [f"{words[0]}{words[1]}{token}{words[1]}{words[2]}" for token in added]
    splitter = ByteLevel(add_prefix_space=False, use_regex=False)
    for text in _TEXTS:
        if text in loose:
            continue
        letters = {c for piece, _ in splitter.pre_tokenize_str(text) for c in piece}
        if spelled is None or letters <= spelled:
            yield text
    yield from around


def _loose(description: dict[str, Any]) -> list[str]:
    """Test texts that are not in NFC; none if the tokenizer does not normalize to it."""
    if all(step["type"] != "NFC" for step in _steps(description["normalizer"], "normalizers")):
        return []
    return [text for text in _TEXTS if unicodedata.normalize("NFC", text) != text]


def _known_kinds(description: dict[str, Any]) -> Iterator[str]:
    """Properties of the tokenizer that llama.cpp is known not to support."""
    added = description["added_tokens"]
    for token in added:
        for flag, says in (("lstrip", "includes the space before it"), ("rstrip", "includes the space after it"),
                           ("single_word", "matches whole words only")):  # fmt: skip
            if token.get(flag):
                yield f"its token {token['content']!r} {says}"
    metaspace = [s for s in _steps(description["pre_tokenizer"], "pretokenizers") if s["type"] == "Metaspace"]
    if added and any(step.get("prepend_scheme") == "first" for step in metaspace):
        yield "it adds a space at the start of the text only, llama.cpp also after special tokens"


def _steps(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step[inner]) if step["type"] == "Sequence" else [step]
