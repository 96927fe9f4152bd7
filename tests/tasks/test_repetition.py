"""Repetition, against definitions written out."""

from __future__ import annotations

import random

import pytest

from slmquant.tasks.common.writing.repetition import ends_in_loop, longest_loop, repeated_ngrams


def _is_loop(stretch: list[int]) -> bool:
    """Whether one piece, written three times or more, makes up the stretch; the last time may be cut short."""
    return any(
        len(stretch) >= 3 * period and stretch == (stretch[:period] * len(stretch))[: len(stretch)]
        for period in range(1, len(stretch) // 3 + 1)
    )


def _texts() -> list[list[int]]:
    draw = random.Random(0)
    made = []
    for _ in range(150):
        piece = draw.choices(range(3), k=draw.randint(1, 7))
        made.append(
            draw.choices(range(3), k=draw.randint(0, 12)) + piece * draw.randint(1, 6) + piece[: draw.randint(0, 3)]
        )
    return made


@pytest.mark.parametrize("tail", [[], [9]], ids=["at the end", "before the end"])
def test_the_longest_loop_is_the_longest_of_all_stretches(tail: list[int]) -> None:
    for text in _texts():
        tokens = text + tail
        stretches = [tokens[i:j] for i in range(len(tokens)) for j in range(i, len(tokens) + 1)]
        assert longest_loop(tokens) == max((len(stretch) for stretch in stretches if _is_loop(stretch)), default=0)


def test_a_text_ends_in_a_loop_if_a_long_enough_tail_is_one() -> None:
    found = set()
    for tokens in _texts():
        expected = any(_is_loop(tokens[start:]) for start in range(len(tokens) - 15))
        assert ends_in_loop(tokens) == expected
        found.add(expected)
    assert found == {True, False}


def test_an_ellipsis_is_no_loop_to_be_caught_in() -> None:
    assert not ends_in_loop([*range(80), 9, 9, 9, 9])
    assert ends_in_loop([*range(80), *[9] * 16])
    assert longest_loop([*range(80), 9, 9, 9, 9]) == 4


def test_repeated_ngrams_are_those_that_occurred_before() -> None:
    assert repeated_ngrams([1, 2, 3, 4, 5, 6]) == 0
    assert repeated_ngrams([7] * 10) == pytest.approx(6 / 7)
    assert repeated_ngrams([1, 2, 1, 2, 1, 2], n=2) == pytest.approx(3 / 5)
    assert repeated_ngrams([1, 2, 3]) is None


def test_renaming_tokens_changes_nothing() -> None:
    for tokens in _texts():
        renamed = [100 - token for token in tokens]
        for measure in (longest_loop, ends_in_loop, repeated_ngrams):
            assert measure(renamed) == measure(tokens)
