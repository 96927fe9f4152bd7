"""Which inputs are run together, so that what they share is computed once; pure planning, no model.

Two kinds of sharing. Inputs that begin alike (the options of a question) form a tree, see `running.token_trees`. Many
inputs behind one long beginning (the questions of a subject behind its examples) are run after that beginning, whose
keys and values are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmquant.model.running.token_trees import Tokens, Tree, common_length, lay_out

__all__ = ["Batch", "Plan", "one_by_one", "plan"]

_LONG_PREFIX = 96
"""Tokens that are worth a cache of their own."""
_ALIKE = 8
"""Tokens that two inputs must share, and a quarter of the longer one, to form a tree."""


@dataclass(frozen=True)
class Batch:
    """Trees that are run at once.

    Attributes:
        trees: The trees.
        inputs: Of each tree, the inputs that its paths run through.
    """

    trees: tuple[Tree, ...]
    inputs: tuple[tuple[Tokens, ...], ...]


@dataclass(frozen=True)
class Plan:
    """Batches that hang on one prefix.

    Attributes:
        prefix: Its tokens; empty for none.
        batches: What is run after it.
    """

    prefix: Tokens
    batches: tuple[Batch, ...]


def plan(scored_from: Mapping[Tokens, int], max_tokens: int) -> list[Plan]:
    """Divide inputs into trees and batches.

    Args:
        scored_from: Input → the first position whose state is asked for; nothing before it may lie in a cache alone.
        max_tokens: Of a batch, padding included; a single tree may be larger.

    Returns:
        Plans that hold every input once. The one without a prefix comes last, its batches from long to short.
    """
    plans: list[Plan] = []
    rest: list[Tokens] = []
    for family in _families(sorted(scored_from)):
        shared = min(common_length(family[0], family[-1]), *(scored_from[tokens] for tokens in family))
        if shared >= _LONG_PREFIX and sum(len(tokens) - shared for tokens in family) > max_tokens:
            plans.append(Plan(family[0][:shared], tuple(_rows(family, shared, max_tokens))))
        else:
            rest += family
    if rest:
        plans.append(Plan((), tuple(_batches(_alike(rest, max_tokens), max_tokens))))
    return plans


def one_by_one(inputs: Sequence[Tokens], max_tokens: int) -> list[Batch]:
    """Batches in which every input is a tree of its own, for models that cannot share."""
    return _batches([(tokens,) for tokens in inputs], max_tokens)


def _families(inputs: Sequence[Tokens]) -> list[list[Tokens]]:
    """Runs of sorted inputs that share a long beginning; all others by themselves.

    A run ends where the next input shares less than half of what its members share so far: behind the examples of one
    subject come those of another, and both begin with the same few words.
    """
    families: list[list[Tokens]] = []
    shared = 0
    for tokens in inputs:
        common = common_length(families[-1][-1], tokens) if families else 0
        first_pair = bool(families) and len(families[-1]) == 1
        if common >= _LONG_PREFIX and (first_pair or common >= shared / 2):
            families[-1].append(tokens)
            shared = common if first_pair else min(shared, common)
        else:
            families.append([tokens])
    return families


def _alike(inputs: Sequence[Tokens], max_tokens: int) -> list[tuple[Tokens, ...]]:
    """Sorted inputs in groups that are each worth a tree of at most `max_tokens` nodes.

    Items that all begin with one short instruction would otherwise be a single tree, whose mask is quadratic in them.
    """
    groups: list[list[Tokens]] = []
    size = 0
    for tokens in inputs:
        if groups:
            common = common_length(groups[-1][-1], tokens)
            added = len(tokens) - common
            if common >= max(_ALIKE, max(len(tokens), len(groups[-1][-1])) / 4) and size + added <= max_tokens:
                groups[-1].append(tokens)
                size += added
                continue
        groups.append([tokens])
        size = len(tokens)
    return [tuple(group) for group in groups]


def _rows(family: Sequence[Tokens], prefix: int, max_tokens: int) -> list[Batch]:
    """A family in single trees of about `max_tokens`: rows of a batch would each need the cache for themselves."""
    rows: list[list[Tokens]] = []
    size = 0
    for tokens in family:
        added = len(tokens) - prefix
        if rows and size + added <= max_tokens:
            rows[-1].append(tokens)
            size += added
        else:
            rows.append([tokens])
            size = added
    return [Batch((lay_out(row, prefix),), (tuple(row),)) for row in rows]


def _batches(groups: Sequence[tuple[Tokens, ...]], max_tokens: int) -> list[Batch]:
    """Trees of similar size together, so that little is padded."""
    trees = sorted(
        ((lay_out(group), group) for group in groups), key=lambda pair: (-len(pair[0].tokens), pair[0].tokens)
    )
    batches: list[list[tuple[Tree, tuple[Tokens, ...]]]] = []
    for pair in trees:
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0][0].tokens) <= max_tokens:
            batches[-1].append(pair)
        else:
            batches.append([pair])
    return [Batch(tuple(tree for tree, _ in batch), tuple(group for _, group in batch)) for batch in batches]
