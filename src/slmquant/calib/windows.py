"""Text cut into windows of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from slmquant.calib.corpora import Corpus
from slmquant.errors import DataError
from slmquant.item_order import item_order_key

__all__ = ["calibration_windows", "spread_windows", "text_tokens", "window_bos"]

_SHORTEST_WINDOW = 8
"""`CalibrationSpec` takes no shorter one, so none is advised."""


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> Int[Tensor, " tokens"]:
    """Token ids of a whole text, tokenized once.

    Special tokens that the tokenizer adds itself stand around the whole text, but for models whose every window begins
    with BOS (`window_bos`): that is then put before the windows alone, so none begins with two.
    """
    ids = tokenizer(text, add_special_tokens=window_bos(tokenizer) is None, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def spread_windows(name: str, available: int, wanted: int) -> tuple[int, ...]:
    """Which windows stand for a whole text: evenly spaced over it, in its order, from a start that is drawn.

    A systematic sample, `⌊(i + u) · available / wanted⌋` for i = 0 ... wanted − 1, where u in [0, 1) is drawn by a hash
    of the text's name: the same windows for every model, method and machine. All windows where as many are wanted or
    more. The first windows, which are often taken, are a text's first few articles.

    Args:
        name: Of the text.
        available: Windows that it has.
        wanted: How many to take.
    """
    wanted = min(wanted, available)
    start = int.from_bytes(item_order_key(0, name, name, "first window")[:6], "big") / (1 << 48)
    return tuple(int((index + start) * available / wanted) for index in range(wanted))


def window_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS token that every window must begin with, or None where windows need none.

    Gemma models are lost without BOS; others read a window from the middle of a text as it is, which is what
    the published WikiText-2 figures rest on. The family is known by its turn markers, since converted
    tokenizers keep no class name.
    """
    needed = "<start_of_turn>" in tokenizer.get_vocab()
    return tokenizer.bos_token_id if needed else None


def calibration_windows(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, num_samples: int, seq_len: int, seed: int
) -> Int[Tensor, "samples seq"]:
    """Windows drawn from a corpus: seeded, none overlapping another.

    The tokenized corpus is cut into windows from a random start, and `num_samples` of them are drawn.

    Args:
        tokenizer: The model's tokenizer.
        corpus: Where they are drawn from.
        num_samples: How many windows.
        seq_len: Tokens in a window, BOS included where the model needs one.
        seed: Same seed, same windows.

    Raises:
        DataError: The corpus is too short; the message says what fits.
    """
    bos = window_bos(tokenizer)
    shortest = 2 if bos is None else 3
    if num_samples < 1 or seq_len < shortest:
        raise DataError(
            f"{num_samples} calibration windows of {seq_len} tokens; ask for at least one of {shortest} or more"
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
    """What fits into a corpus, of what `CalibrationSpec` takes."""
    fitting = [f"{available} such windows fit"] if available else []
    if (shorter := tokens // num_samples + with_bos) >= _SHORTEST_WINDOW:
        fitting.append(f"{num_samples} of {shorter}" + ("" if available else " tokens fit"))
    elif not available and (alone := tokens + with_bos) >= _SHORTEST_WINDOW:
        fitting.append(f"one window of {alone} tokens fits")
    return ", or ".join(fitting) or f"not even one window of {_SHORTEST_WINDOW} fits: give a longer text (--corpus)"
