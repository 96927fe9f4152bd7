"""Measures how much a text repeats itself, on its tokens."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ends_in_loop", "longest_loop", "repeated_ngrams"]

_TIMES = 3
"""Repetitions in a row that make a piece a loop."""
_LOOP_TOKENS = 16
"""Shortest loop at the end of a text that counts as being caught in it; a shorter one may be an ellipsis."""


def repeated_ngrams(tokens: Sequence[int], n: int = 4) -> float | None:
    """Share of the n-grams that have occurred before, in [0, 1]; None for fewer than `n` tokens.

    `1 − distinct / all`, seq-rep-n of Welleck et al., "Neural Text Generation With Unlikelihood Training", ICLR 2020,
    arXiv 1908.04319.
    """
    ngrams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else None


def longest_loop(tokens: Sequence[int]) -> int:
    """Tokens of the longest stretch that is one piece at least three times in a row; 0 if there is none.

    The last repetition may be cut short, once there are three.
    """
    longest = 0
    for period in range(1, len(tokens) // _TIMES + 1):
        same = 0  # tokens in a row, up to here, that equal the one a period before
        for here in range(period, len(tokens)):
            same = same + 1 if tokens[here] == tokens[here - period] else 0
            if same >= (_TIMES - 1) * period:
                longest = max(longest, same + period)
    return longest


def ends_in_loop(tokens: Sequence[int]) -> bool:
    """Whether the last 16 tokens or more are one piece at least three times in a row."""
    for period in range(1, len(tokens) // _TIMES + 1):
        same = 0
        while same + period < len(tokens) and tokens[-1 - same] == tokens[-1 - same - period]:
            same += 1
        if same + period >= max(_TIMES * period, _LOOP_TOKENS):
            return True
    return False
