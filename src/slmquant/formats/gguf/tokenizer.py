"""Write a tokenizer as GGUF keys: tokens, merges or scores, splitting rule, special tokens, chat template.

llama.cpp supports two families used by small models: byte-level BPE with one of a few named splitting rules ("gpt2"),
and SentencePiece BPE with byte fallback ("llama"). The input is the `tokenizer.json` of Hugging Face's library. A
tokenizer with another splitting rule is refused: the file would compute other tokens than were evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from slmquant.errors import RefusedError
from slmquant.model.gguf.vocabulary import ONE_DIGIT, THREE_DIGITS
from slmquant.model.sources.token_rows import beyond, named, used_by_template

_SPLITS: Mapping[tuple[str, ...], str] = {
    ("bytes",): "gpt-2",
    ("digits", "bytes"): "smollm",
    (ONE_DIGIT,): "qwen2",
    (THREE_DIGITS,): "dbrx",
}
"""Splitting steps → llama.cpp's name of the rule."""
_WHOLE_WORDS_FIRST = {"dbrx": "llama-bpe"}
"""Name of the same rule if whole words that are tokens skip the merges (`ignore_merges`)."""
_SPACE = "▁"


@dataclass(frozen=True)
class Vocabulary:
    """Contents of the `tokenizer.ggml.*` keys.

    Attributes:
        model: `gpt2` or `llama`.
        pre: llama.cpp's name of the splitting rule.
        tokens: One for each row of the embedding; rows without a token are padded.
        types: The type of each token.
        merges: Pairs in order of rank; empty for `llama`.
        scores: For `llama`: tokens with higher scores are merged first.
        space_prefix: Whether a space is added before the text.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[gguf.TokenType, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    space_prefix: bool = False


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer for a model whose embedding has `rows` rows.

    Raises:
        RefusedError: llama.cpp has no equivalent tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RefusedError(f"gguf: {type(tokenizer).__name__} has no tokenizer.json; a fast tokenizer is needed")
    description = json.loads(backend.to_str())
    model = description["model"]
    if model["type"] != "BPE":
        raise RefusedError(f"gguf: the tokenizer is a {model['type']} model; only BPE can be written")
    _refuse_normalizers(description, {"Prepend", "Replace"} if model.get("byte_fallback") else {"NFC"})
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        return _sentencepiece(description, pairs, rows)
    pre = _splitting(description)
    tokens, types = _tokens(description, rows, byte_fallback=False)
    return Vocabulary("gpt2", pre, tokens, types, merges=tuple(" ".join(pair) for pair in pairs))


def _sentencepiece(description: dict[str, Any], pairs: list[tuple[str, ...]], rows: int) -> Vocabulary:
    """Scores instead of merge ranks: a token's score is the negative rank of the first merge that produces it."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault("".join(pair), rank)
    vocab = {id_: text for text, id_ in description["model"]["vocab"].items()}
    last = len(pairs)
    scores = tuple(-float(ranks.get(vocab.get(id_, ""), last)) for id_ in range(rows))
    tokens, types = _tokens(description, rows, byte_fallback=True)
    return Vocabulary("llama", "default", tokens, types, scores=scores, space_prefix=_puts_space_first(description))


def _tokens(
    description: dict[str, Any], rows: int, byte_fallback: bool
) -> tuple[tuple[str, ...], tuple[gguf.TokenType, ...]]:
    texts = [f"[PAD{id_}]" for id_ in range(rows)]
    types = [gguf.TokenType.UNUSED] * rows
    for text, id_ in description["model"]["vocab"].items():
        if id_ < rows:
            texts[id_] = text.replace(" ", _SPACE) if byte_fallback else text
            is_byte = byte_fallback and len(text) == 6 and text.startswith("<0x")
            types[id_] = gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL
    for added in description["added_tokens"]:
        if (id_ := added["id"]) < rows:
            texts[id_] = added["content"]
            types[id_] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    unknown = description["model"].get("unk_token")
    if byte_fallback and unknown in texts:
        types[texts.index(unknown)] = gguf.TokenType.UNKNOWN
    return tuple(texts), tuple(types)


def _splitting(description: dict[str, Any]) -> str:
    """llama.cpp's name of the rule that splits text before merging."""
    steps: list[str] = []
    for step in _sequence(description["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "ByteLevel":
            if step.get("add_prefix_space"):
                steps.append("a space before the text")
            if step.get("use_regex", True):
                steps.append("bytes")
        elif step["type"] == "Digits" and step["individual_digits"]:
            steps.append("digits")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            steps.append(step["pattern"].get("Regex", str(step["pattern"])))
        else:
            steps.append(step["type"])
    name = _SPLITS.get(tuple(steps))
    if name is None:
        raise RefusedError(f"gguf: the tokenizer splits text by {' then '.join(steps)!r}, which llama.cpp does not")
    return _WHOLE_WORDS_FIRST.get(name, name) if description["model"].get("ignore_merges") else name


def _refuse_normalizers(description: dict[str, Any], harmless: set[str]) -> None:
    """Refuses normalizers other than `harmless`. NFC, which llama.cpp lacks, leaves nearly all text unchanged."""
    types = {step["type"] for step in _sequence(description["normalizer"], "normalizers")}
    if other := types - harmless:
        raise RefusedError(f"gguf: the tokenizer changes text by {', '.join(sorted(other))}, which llama.cpp does not")


def _puts_space_first(description: dict[str, Any]) -> bool:
    normalizers = _sequence(description["normalizer"], "normalizers")
    splitters = _sequence(description["pre_tokenizer"], "pretokenizers")
    schemes = [step.get("prepend_scheme", "always") for step in splitters if step["type"] == "Metaspace"]
    return any(step["type"] == "Prepend" for step in normalizers) or any(scheme != "never" for scheme in schemes)


def _sequence(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step[inner]) if step["type"] == "Sequence" else [step]


def add_tokenizer_(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int, ends: Sequence[int] = ()
) -> tuple[str, ...]:
    """Add the tokenizer's keys to a file, and return remarks on what could not be written.

    Args:
        writer: Writer of the file.
        tokenizer: The tokenizer.
        rows: Rows of the embedding.
        ends: Tokens that end generated text; llama.cpp has three keys for them (eos, eot, eom).

    Raises:
        RefusedError: llama.cpp has no equivalent tokenizer, or the chat template uses a token without a row.
    """
    remarks = []
    if used := used_by_template(tokenizer, rows):
        raise RefusedError(
            f"gguf: the chat template writes {named(used)}, which has no row in the embedding ({rows} rows); "
            "use the tokenizer that belongs to the model"
        )
    if lost := beyond(tokenizer, rows):
        remarks.append(f"{len(lost)} tokens have no row in the embedding and are not in the file: {named(lost)}")
    more = [id_ for id_ in dict.fromkeys(ends) if id_ != tokenizer.eos_token_id and 0 <= id_ < rows]
    for id_, add in zip(more, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(id_)
    if more[2:]:
        remarks.append(f"GGUF has no key for further end-of-text tokens: {tokenizer.convert_ids_to_tokens(more[2:])}")
    vocabulary = vocabulary_of(tokenizer, rows)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.space_prefix)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    for id_, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if id_ is not None and id_ < rows:
            add(id_)
    ids = tokenizer("a").input_ids
    writer.add_add_bos_token(len(ids) > 0 and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(ids) > 0 and ids[-1] == tokenizer.eos_token_id)
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # several, by name
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template:
        writer.add_chat_template(template)
    return tuple(remarks)
