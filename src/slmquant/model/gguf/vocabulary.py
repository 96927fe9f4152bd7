"""Read the tokenizer of a GGUF file: byte-level BPE with a named splitting rule, or SentencePiece BPE with scores."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from slmquant.errors import ModelError

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ONE_DIGIT = rf"{CONTRACTIONS}|\p{{N}}|{REST}"
THREE_DIGITS = rf"{CONTRACTIONS}|\p{{N}}{{1,3}}|{REST}"
_GPT2, _DIGITS = "gpt-2", "digits"
_RULES: Mapping[str, str] = MappingProxyType(
    {
        "gpt-2": _GPT2,
        "gpt2": _GPT2,
        "phi-2": _GPT2,
        "olmo": _GPT2,
        "smollm": _DIGITS,
        "starcoder": _DIGITS,
        "command-r": _DIGITS,
        "qwen2": ONE_DIGIT,
        "stablelm2": ONE_DIGIT,
        "dbrx": THREE_DIGITS,
        "llama-bpe": THREE_DIGITS,
        "llama3": THREE_DIGITS,
        "llama-v3": THREE_DIGITS,
        "smaug-bpe": THREE_DIGITS,
    }
)
"""llama.cpp's names of splitting rules → GPT-2's rule, the same after splitting digits, or a pattern."""
_WHOLE_WORDS_FIRST = frozenset({"llama-bpe", "llama3", "llama-v3"})
_SPACE = "▁"


def tokenizer_of(fields: Mapping[str, object]) -> PreTrainedTokenizerFast:
    """The tokenizer described by a file's keys.

    Raises:
        ModelError: Its kind, or its splitting rule, is not supported.
        KeyError: A key is missing.
    """
    tokens = cast(list[str], fields["tokenizer.ggml.tokens"])
    types = cast(list[int], fields.get("tokenizer.ggml.token_type", [gguf.TokenType.NORMAL] * len(tokens)))
    ids: dict[str, int] = {}
    for id_, token in enumerate(tokens):
        ids.setdefault(token, id_)
    kind = fields["tokenizer.ggml.model"]
    if kind == "gpt2":
        made = _byte_level(fields, ids)
    elif kind == "llama":
        made = _sentencepiece(fields, tokens, types, ids)
    else:
        raise ModelError(f"its tokenizer is of the kind {kind!r}; supported: gpt2, llama")
    added = {gguf.TokenType.CONTROL: True, gguf.TokenType.UNKNOWN: True, gguf.TokenType.USER_DEFINED: False}
    for token, type_ in zip(tokens, types, strict=True):
        if type_ in added:
            made.add_tokens([AddedToken(token, special=added[gguf.TokenType(type_)], normalized=False)])
    special = {
        name: _token(fields, tokens, key)
        for name, key in (
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        )
    }
    _add_ends_(made, fields, special, ids, kind == "llama")
    given = {name: token for name, token in special.items() if token is not None}
    result = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **given)
    if isinstance(template := fields.get("tokenizer.chat_template"), str):
        result.chat_template = template
    return result


def _byte_level(fields: Mapping[str, object], ids: Mapping[str, int]) -> Tokenizer:
    pre = str(fields.get("tokenizer.ggml.pre", "gpt-2"))
    rule = _RULES.get(pre)
    if rule is None:
        raise ModelError(f"its tokenizer splits text by the rule {pre!r}; supported: {', '.join(_RULES)}")
    merges = [tuple(merge.split(" ", 1)) for merge in cast(list[str], fields["tokenizer.ggml.merges"])]
    pairs = cast(list[tuple[str, str]], merges)
    made = Tokenizer(models.BPE(vocab=dict(ids), merges=pairs, ignore_merges=pre in _WHOLE_WORDS_FIRST))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule in (_GPT2, _DIGITS))
    first = {_GPT2: [], _DIGITS: [pre_tokenizers.Digits(individual_digits=True)]}
    steps = first.get(rule, [pre_tokenizers.Split(Regex(rule), "isolated")])
    made.pre_tokenizer = pre_tokenizers.Sequence([*steps, bytes_])
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(
    fields: Mapping[str, object], tokens: list[str], types: list[int], ids: Mapping[str, int]
) -> Tokenizer:
    """Every split of a token into two other tokens is a merge, ranked by the score of the union."""
    scores = cast(list[float], fields["tokenizer.ggml.scores"])
    merges = [
        (scores[id_], token[:cut], token[cut:])
        for id_, token in enumerate(tokens)
        if types[id_] == gguf.TokenType.NORMAL
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    merges.sort(key=lambda merge: (-merge[0], ids[merge[1]], ids[merge[2]]))
    unknown = _token(fields, tokens, "unknown") or next(
        (token for token, type_ in zip(tokens, types, strict=True) if type_ == gguf.TokenType.UNKNOWN), None
    )
    model = models.BPE(
        vocab=dict(ids),
        merges=[(left, right) for _, left, right in merges],
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    made, prefix = Tokenizer(model), bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(_SPACE)] if prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made


def _add_ends_(
    made: Tokenizer, fields: Mapping[str, object], special: Mapping[str, str | None], ids: Mapping[str, int], bos: bool
) -> None:
    """Add BOS and EOS as the file states; if it does not state BOS, only SentencePiece texts begin with it."""
    first = special["bos_token"] if fields.get("tokenizer.ggml.add_bos_token", bos) else None
    last = special["eos_token"] if fields.get("tokenizer.ggml.add_eos_token", False) else None
    around = [token for token in (first, last) if token is not None]
    if around:
        single = " ".join(token for token in (first, "$A", last) if token is not None)
        made.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} {single.replace('$A', '$B')}", special_tokens=[(t, ids[t]) for t in around]
        )


def _token(fields: Mapping[str, object], tokens: list[str], name: str) -> str | None:
    id_ = fields.get(f"tokenizer.ggml.{name}_token_id")
    return tokens[id_] if isinstance(id_, int) and 0 <= id_ < len(tokens) else None
