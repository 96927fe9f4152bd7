"""Plans which inputs to run together so that shared beginnings are computed once; without a model.

There are two kinds of sharing. Inputs with a common beginning (the options of a question) form a tree, see
`running.token_trees`. Many inputs with one long common beginning (the questions of a subject after its examples) are
run after that prefix, whose keys and values are cached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmquant.model.running.token_trees import Tokens, Tree, common_length, lay_out

__all__ = ["Batch", "Plan", "one_by_one", "plan"]

_LONG_PREFIX = 96
"""Shortest prefix, in tokens, that is worth its own cache."""
_ALIKE = 8
"""Two inputs form a tree if they share this many tokens and a quarter of the longer one."""


@dataclass(frozen=True)
class Batch:
    """Trees to run in one forward pass.

    Attributes:
        trees: The trees.
        inputs: For each tree, the inputs that are its paths.
    """

    trees: tuple[Tree, ...]
    inputs: tuple[tuple[Tokens, ...], ...]


@dataclass(frozen=True)
class Plan:
    """Batches with the same prefix.

    Attributes:
        prefix: Its tokens; empty for none.
        batches: The batches to run after it.
    """

    prefix: Tokens
    batches: tuple[Batch, ...]


def plan(scored_from: Mapping[Tokens, int], max_tokens: int) -> list[Plan]:
    """Divide inputs into trees and batches.

    Args:
        scored_from: Input → the first position whose state is needed; a prefix must end before it.
        max_tokens: Largest batch, in tokens with padding; a single tree may be larger.

    Returns:
        Plans that contain every input once. The plan without a prefix comes last, its batches from long to short.
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
    """Batches with every input as a separate tree, for models that cannot share beginnings."""
    return _batches([(tokens,) for tokens in inputs], max_tokens)


def _families(inputs: Sequence[Tokens]) -> list[list[Tokens]]:
    """Group consecutive sorted inputs that share a long beginning; every other input is a group by itself.

    A group ends when the next input shares less than half of what its members have shared so far: the next subject's
    examples, for instance, which begin with the same few words.
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
    """Divide sorted inputs into groups that are each worth a tree, of at most `max_tokens` nodes.

    Without these bounds, items that all begin with one short instruction would be a single tree, with a mask that is
    quadratic in its size.
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
    """Divide a family into single trees of about `max_tokens`, as each row of a batch would need its own cache."""
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
    """Batch trees of similar size, so that there is little padding."""
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
