"""The hidden states that predict lm-eval's continuations, collected over batches so that logits come in full blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slmquant.model.running.token_trees import Tokens
from slmquant.tasks.common.lm_eval.sharing import Batch

__all__ = ["AskedStates", "Scored", "first_scored"]


@dataclass(frozen=True)
class Scored:
    """A continuation to score: its request, and its tokens, which are the input's last predictions."""

    request: int
    targets: tuple[int, ...]


class AskedStates:
    """Collects hidden states over batches, with the target tokens that each predicts.

    Attributes:
        count: Number of states.
        index: For each target token, the number of the state that predicts it.
        targets: The target tokens.
        owners: For each target token, the request whose continuation it is part of.
    """

    def __init__(self) -> None:
        self.count = 0
        self.index: list[int] = []
        self.targets: list[int] = []
        self.owners: list[int] = []
        self._states: list[Tensor] = []

    def add(self, batch: Batch, hidden: Tensor, inputs: Mapping[Tokens, list[Scored]]) -> None:
        """Add the needed states of a batch, once each, from `hidden` of shape `(trees, nodes, hidden)`."""
        where: list[tuple[int, int]] = []  # (tree, node) of each predicting state
        for row, (tree, members) in enumerate(zip(batch.trees, batch.inputs, strict=True)):
            for tokens, path in zip(members, tree.paths, strict=True):
                for continuation in inputs[tokens]:
                    size = len(continuation.targets)
                    where += [(row, node) for node in path[-size:]]
                    self.targets += continuation.targets
                    self.owners += [continuation.request] * size
        number = {place: self.count + index for index, place in enumerate(sorted(set(where)))}
        self.index += [number[place] for place in where]
        self._states.append(hidden[tuple(torch.tensor(list(number)).T)])
        self.count += len(number)

    def joined(self) -> Tensor:
        """All states, `(count, hidden)`."""
        return torch.cat(self._states)


def first_scored(ids: Tokens, continuations: Sequence[Scored]) -> int:
    """The first position of an input whose prediction is scored."""
    return len(ids) - max(len(continuation.targets) for continuation in continuations)
