"""Whether llama.cpp cuts text as a tokenizer does: tried on fixed texts with a file that was written, where it is here.

The texts have what tokenizers differ in (spaces, digits, contractions, accents, scripts) and each of the tokenizer's
added tokens between words. Where llama.cpp's wheel is not installed, kinds of tokenizers known to be cut otherwise are
named from their description.
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
_ASK = """
import json, sys
from cyllama.llama import llama_cpp
llama_cpp.set_log_callback(lambda level, text: None)
parameters = llama_cpp.LlamaModelParams()
parameters.use_extra_bufts = False
model = llama_cpp.LlamaModel(sys.argv[1], parameters)
vocabulary = model.get_vocab()
print(json.dumps([list(vocabulary.tokenize(text, True, True)) for text in json.load(sys.stdin)]))
"""


def prove(path: Path, tokenizer: PreTrainedTokenizerBase, rows: int, accept: bool) -> tuple[str, ...]:
    """Try a written file; returns what a user should know.

    Of a tokenizer that composes text (Unicode's NFC), as Qwen's do, text that is not composed is tried, too, but named
    alone where it is cut otherwise: it is rare, and all other text is cut the same.

    Args:
        path: The file.
        tokenizer: What it was written from.
        rows: Of the embedding: a token beyond them is in no file.
        accept: Whether a difference is a remark and no refusal.

    Raises:
        RefusedError: llama.cpp cuts a text otherwise, or would, as far as the description tells.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    remarks, tried = [], None
    if find_spec(_WHEEL) is None:
        remarks.append("llama.cpp is not installed: its tokenization was not tried; pip install 'slmquant[llamacpp]'")
    elif (tried := _tried(path, tokenizer, description, rows)) is None:
        remarks.append("llama.cpp ended while it cut texts into tokens, so its tokenization is not proved")
    found = list(_known_kinds(description)) if tried is None else tried[0]
    apart = _loose(description) if tried is None else tried[1]
    if apart:
        remarks.append(
            "text that is not composed (Unicode NFC) is cut otherwise by llama.cpp, which composes nothing: "
            f"{apart[0]}; compose it before it is asked"
        )
    if found and not accept:
        raise RefusedError(
            f"gguf: llama.cpp cuts text otherwise than this tokenizer: {found[0]}"
            + (f" and {len(found) - 1} more" if len(found) > 1 else "")
            + "; the file would answer other texts. Ask for it all the same with --any-tokenization"
        )
    return (*remarks, *(f"llama.cpp cuts text otherwise: {one}" for one in found))


def _tried(
    path: Path, tokenizer: PreTrainedTokenizerBase, description: dict[str, Any], rows: int
) -> tuple[list[str], list[str]] | None:
    """Texts that are cut otherwise, and those of them that the tokenizer would compose; None where llama.cpp ended.

    It runs in a process of its own: a vocabulary without the tokens that it takes for granted makes it abort.
    """
    loose = _loose(description)
    texts = [*_texts(description, rows), *loose]
    command = [sys.executable, "-c", _ASK, str(path)]
    asked = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, encoding="utf-8", errors="replace", timeout=_LIMIT_S
    )
    if asked.returncode != 0:
        return None
    different: tuple[list[str], list[str]] = ([], [])
    for text, theirs in zip(texts, json.loads(asked.stdout.splitlines()[-1]), strict=True):
        own = list(tokenizer(text).input_ids)
        if own != theirs:
            first = next((i for i, pair in enumerate(zip(own, theirs, strict=False)) if pair[0] != pair[1]), None)
            where = "its end" if first is None else f"token {first}"
            different[text in loose].append(f"{text!r} at {where} ({len(own)} tokens, {len(theirs)} there)")
    return different


def _texts(description: dict[str, Any], rows: int) -> Iterator[str]:
    """Texts of which the vocabulary knows every byte, as far as the file has them."""
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
    """Texts that a tokenizer composes before it cuts them; none where it leaves text as it is."""
    if all(step["type"] != "NFC" for step in _steps(description["normalizer"], "normalizers")):
        return []
    return [text for text in _TEXTS if unicodedata.normalize("NFC", text) != text]


def _known_kinds(description: dict[str, Any]) -> Iterator[str]:
    """Tokenizers that llama.cpp is known to cut otherwise."""
    added = description["added_tokens"]
    for token in added:
        for flag, says in (("lstrip", "takes the space before it"), ("rstrip", "takes the space after it"),
                           ("single_word", "is found as a whole word alone")):  # fmt: skip
            if token.get(flag):
                yield f"its token {token['content']!r} {says}"
    metaspace = [s for s in _steps(description["pre_tokenizer"], "pretokenizers") if s["type"] == "Metaspace"]
    if added and any(step.get("prepend_scheme") == "first" for step in metaspace):
        yield "it puts a space before the text's beginning alone, llama.cpp after special tokens, too"


def _steps(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step[inner]) if step["type"] == "Sequence" else [step]
