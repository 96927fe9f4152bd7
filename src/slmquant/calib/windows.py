"""Text cut into windows of tokens."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from slmquant.calib.corpora import Corpus
from slmquant.errors import DataError
from slmquant.item_order import item_order_key

__all__ = ["SpreadSample", "calibration_windows", "spread_sample", "spread_windows", "text_tokens", "window_bos"]

_SHORTEST_WINDOW = 8
"""Shortest window that `CalibrationSpec` accepts; shorter ones are not suggested."""


@functools.lru_cache(maxsize=2)
def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> Int[Tensor, " tokens"]:
    """Token ids of a whole text, tokenized once.

    Special tokens that the tokenizer adds stand around the whole text, except for models that need BOS in every window
    (`window_bos`): there BOS is added to each window later, so that no window begins with two.
    """
    ids = tokenizer(text, add_special_tokens=window_bos(tokenizer) is None, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def spread_windows(name: str, available: int, wanted: int) -> tuple[int, ...]:
    """A systematic sample of a text's windows: evenly spaced, in order, from a pseudo-random start.

    The windows are `⌊(i + u) · available / wanted⌋` for i = 0 ... wanted − 1, where u in [0, 1) is computed from a hash
    of the text's name, so they are the same for every model, method and machine. If `wanted` is at least `available`,
    all windows are taken. The first windows, which are often used instead, are only a text's first few articles.

    Args:
        name: Name of the text.
        available: Number of windows in the text.
        wanted: Number of windows to take.
    """
    wanted = min(wanted, available)
    start = int.from_bytes(item_order_key(0, name, name, "first window")[:6], "big") / (1 << 48)
    return tuple(int((index + start) * available / wanted) for index in range(wanted))


class SpreadSample(NamedTuple):
    """Windows that are spread evenly over a text.

    Attributes:
        ids: Token ids, BOS included if the model needs one in every window.
        positions: Position of each window in the text, in windows.
        available: Number of windows in the text.
        stride: Tokens from one window to the next.
        opening: Words on where BOS stands.
    """

    ids: Int[Tensor, "windows seq"]
    positions: tuple[int, ...]
    available: int
    stride: int
    opening: str


def spread_sample(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, window: int, limit: int | None) -> SpreadSample:
    """Windows of a text, tokenized once and cut without overlap, its tail dropped.

    Args:
        tokenizer: The model's tokenizer.
        corpus: The text.
        window: Tokens of a window, BOS included.
        limit: Number of windows; None for all.

    Raises:
        DataError: The text is shorter than a window.
    """
    name, bos = corpus.card.name, window_bos(tokenizer)
    tokens = text_tokens(tokenizer, corpus.text)
    length = window if bos is None else window - 1
    available = len(tokens) // length
    if available == 0:
        raise DataError(
            f"{name} is too short: {len(tokens)} tokens, less than one window of {window}; use a longer text"
        )
    positions = spread_windows(name, available, limit or available)
    ids = tokens[: available * length].view(available, length)[list(positions)]
    if bos is not None:
        ids = torch.cat((torch.full((len(ids), 1), bos), ids), dim=1)
        return SpreadSample(ids, positions, available, length, "BOS before every window")
    starts = int(tokens[0]) == tokenizer.bos_token_id
    return SpreadSample(ids, positions, available, length, "BOS at the start of the text" if starts else "no BOS")


def window_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS token that every window must begin with, or None if windows need none.

    Gemma models fail without BOS. Others read a window from the middle of a text without it, as in the published
    WikiText-2 figures. The family is recognised by its turn markers, since converted tokenizers keep no class name.
    """
    needed = "<start_of_turn>" in tokenizer.get_vocab()
    return tokenizer.bos_token_id if needed else None


def calibration_windows(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, num_samples: int, seq_len: int, seed: int
) -> Int[Tensor, "samples seq"]:
    """Draw windows from a corpus, seeded and without overlap.

    The tokenized corpus is cut into windows from a random start, and `num_samples` of them are drawn.

    Args:
        tokenizer: The model's tokenizer.
        corpus: The corpus to draw from.
        num_samples: Number of windows.
        seq_len: Tokens per window, BOS included if the model needs one.
        seed: Random seed; the same seed gives the same windows.

    Raises:
        DataError: The corpus is too short; the message says what would fit.
    """
    bos = window_bos(tokenizer)
    shortest = 2 if bos is None else 3
    if num_samples < 1 or seq_len < shortest:
        raise DataError(
            f"cannot draw {num_samples} calibration windows of {seq_len} tokens; ask for at least one window of "
            f"at least {shortest} tokens"
        )
    tokens = text_tokens(tokenizer, corpus.text)
    length = seq_len if bos is None else seq_len - 1
    available = len(tokens) // length
    if available < num_samples:
        remedy = _remedy(len(tokens), num_samples, available, bos is not None)
        raise DataError(
            f"corpus {corpus.card.name!r} has {len(tokens)} tokens, {num_samples} windows of {seq_len} need "
            f"{num_samples * length}; {remedy}"
        )
    generator = torch.Generator().manual_seed(seed)
    slack = len(tokens) - available * length
    offset = int(torch.randint(slack + 1, (), generator=generator))
    blocks = tokens[offset : offset + available * length].view(available, length)
    drawn = blocks[torch.randperm(available, generator=generator)[:num_samples]]
    if bos is None:
        return drawn
    return torch.cat((torch.full((num_samples, 1), bos), drawn), dim=1)


def _remedy(tokens: int, num_samples: int, available: int, with_bos: bool) -> str:
    """Suggest numbers and lengths of windows that fit into a corpus and that `CalibrationSpec` accepts."""
    fitting = [f"{available} such windows fit"] if available else []
    if (shorter := tokens // num_samples + with_bos) >= _SHORTEST_WINDOW:
        fitting.append(f"{num_samples} of {shorter}" + ("" if available else " tokens fit"))
    elif not available and (alone := tokens + with_bos) >= _SHORTEST_WINDOW:
        fitting.append(f"one window of {alone} tokens fits")
    return ", or ".join(fitting) or f"not even one window of {_SHORTEST_WINDOW} fits: give a longer text (--corpus)"
