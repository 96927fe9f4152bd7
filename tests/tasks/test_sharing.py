"""Every input is run exactly once, and what is worth sharing is shared."""

from __future__ import annotations

import random

import pytest

from slmquant.model.running.token_trees import Tokens
from slmquant.tasks.common.lm_eval.sharing import Plan, one_by_one, plan


def spelled(plans: list[Plan]) -> list[Tokens]:
    """What the trees of all batches spell, prefixes included."""
    found = []
    for part in plans:
        for batch in part.batches:
            for tree, members in zip(batch.trees, batch.inputs, strict=True):
                texts = [part.prefix + tuple(tree.tokens[node] for node in path) for path in tree.paths]
                assert texts == list(members)
                found += texts
    return sorted(found)


def random_inputs(seed: int) -> list[Tokens]:
    """Subjects with long examples, and short questions with options, shuffled."""
    drawn = random.Random(seed)

    def draw(count: int) -> Tokens:
        return tuple(drawn.randrange(9) for _ in range(count))

    found = set()
    for _ in range(3):
        examples = draw(150)
        found |= {(1, 2, 3, *examples, *draw(drawn.randrange(5, 40))) for _ in range(30)}
    for _ in range(40):
        question = draw(drawn.randrange(5, 60))
        found |= {question + draw(drawn.randrange(1, 20)) for _ in range(4)}
    return drawn.sample(sorted(found), len(found))


@pytest.mark.parametrize("seed", range(5))
def test_every_input_is_run_once(seed: int) -> None:
    inputs = random_inputs(seed)
    assert spelled(plan({tokens: len(tokens) - 1 for tokens in inputs}, 200)) == sorted(inputs)


def test_long_examples_are_cached_once_per_subject() -> None:
    plans = plan({tokens: len(tokens) - 1 for tokens in random_inputs(0)}, 200)
    assert [len(part.prefix) >= 150 for part in plans] == [True, True, True, False]
    assert all(len(batch.trees) == 1 for part in plans[:-1] for batch in part.batches)


def test_what_is_asked_for_never_lies_in_the_cache_alone() -> None:
    shared = tuple(range(200))
    inputs = {(*shared, option, end): 120 for option in range(40) for end in range(20)}
    (cached,) = plan(inputs, 300)
    assert cached.prefix == shared[:120]


def test_batches_keep_to_their_tokens_and_hold_trees_of_similar_size() -> None:
    (short,) = plan({(option, *range(50, 50 + size)): size for option, size in enumerate(range(10, 40))}, 128)
    sizes = [[len(tree.tokens) for tree in batch.trees] for batch in short.batches]
    assert all(len(batch) * max(batch) <= 128 for batch in sizes)
    flat = [size for batch in sizes for size in batch]
    assert flat == sorted(flat, reverse=True)


def test_a_question_and_its_options_are_one_tree() -> None:
    question = tuple(range(20))
    (part,) = plan({(*question, 30 + option, 40): 20 for option in range(4)}, 512)
    ((tree,),) = [batch.trees for batch in part.batches]
    assert len(tree.tokens) == 20 + 4 * 2


def test_a_short_beginning_of_a_whole_task_makes_no_tree_of_it() -> None:
    """A mask is quadratic in the nodes of a tree."""
    inputs = {(*range(40), item // 50, item % 50, *range(20)): 62 for item in range(2000)}
    (part,) = plan(inputs, 512)

    assert spelled([part]) == sorted(inputs)
    assert max(len(tree.tokens) for batch in part.batches for tree in batch.trees) <= 512
    assert sum(len(tree.tokens) for batch in part.batches for tree in batch.trees) < 2000 * 26


def test_one_by_one_shares_nothing() -> None:
    batches = one_by_one([(1, 2, 3), (1, 2, 4)], 6)
    assert [len(tree.tokens) for batch in batches for tree in batch.trees] == [3, 3]
