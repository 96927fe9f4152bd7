"""Figures of activations, block by block: inputs of linears, residual stream, attention, super weights.

The text's hidden states walk through the model, and a block is observed while it runs. Beside them, only the second
moments of one block's inputs are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.inspection.attention import FirstTokenObserver
from slmquant.inspection.inputs import InputObserver
from slmquant.inspection.stream import StreamObserver, SuperWeightObserver
from slmquant.model.computing.attention import AttentionCall, observing
from slmquant.model.running.block_walk import CurrentBlock, walk
from slmquant.model.structure import Relations
from slmquant.progress import Progress
from slmquant.store.anatomy import Role
from slmquant.store.inspected import AttentionFacts, InputFacts, StreamFacts, SuperWeight

__all__ = ["Activations", "inspect_activations"]


@dataclass
class Activations:
    """Figures of all blocks, first to last."""

    inputs: list[InputFacts] = field(default_factory=list)
    stream: list[StreamFacts] = field(default_factory=list)
    attention: list[AttentionFacts] = field(default_factory=list)
    super_weights: list[SuperWeight] = field(default_factory=list)


class _BlockObservers:
    """The observers of one block."""

    def __init__(
        self,
        block: CurrentBlock,
        layer: int,
        windows: Int[Tensor, "samples seq"],
        roles: Mapping[str, tuple[Role, int]],
    ) -> None:
        self.inputs = {
            group.linears[0]: InputObserver(group, layer, block.weight(group.linears[0]).shape[1], block.inputs.device)
            for group in block.groups
        }
        self.stream = StreamObserver(layer, windows)
        self.attention = FirstTokenObserver(layer)
        down = [name for group in block.groups for name in group.linears if roles[name][0] == "down"]
        self.super_weights = {name: SuperWeightObserver(name, block.weight(name)) for name in down}

    @contextmanager
    def watching(self, block: CurrentBlock) -> Iterator[None]:
        """Within this context everything that runs through the block is observed."""

        def enter(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden: Tensor = args[0] if args else kwargs["hidden_states"]
            for observer in self.inputs.values():
                observer.windows = hidden.shape[:2]

        def leave(_block: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self.stream.observe(output if isinstance(output, Tensor) else output[0])

        with ExitStack() as hooks:
            hooks.callback(block.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(block.module.register_forward_hook(leave).remove)
            for name, observer in self.inputs.items():
                hooks.callback(block.linear(name).register_forward_pre_hook(observer).remove)
            for name, found in self.super_weights.items():
                hooks.callback(block.linear(name).register_forward_hook(found).remove)
            yield

    def add_to(self, found: Activations, text_of: Callable[[int], str]) -> None:
        """Add what was observed."""
        found.inputs += [facts for observer in self.inputs.values() if (facts := observer.facts()) is not None]
        found.stream.append(self.stream.facts(text_of))
        if (attention := self.attention.facts()) is not None:
            found.attention.append(attention)
        found.super_weights += [one.found for one in self.super_weights.values() if one.found is not None]


@torch.no_grad()
def inspect_activations(
    model: PreTrainedModel,
    relations: Relations,
    roles: Mapping[str, tuple[Role, int]],
    windows: Int[Tensor, "samples seq"],
    text_of: Callable[[int], str],
    progress: Progress,
) -> Activations:
    """Run windows of text through a model in float32 and observe every block.

    Args:
        model: The model.
        relations: Its relations.
        roles: Role and block of every linear.
        windows: Token ids.
        text_of: Turns a token id into text.
        progress: Receives progress updates, one step per block.

    Raises:
        ModelError: Blocks of this architecture cannot be run one by one.
        NumericalError: An activation was not finite.
    """
    found = Activations()
    observers: _BlockObservers | None = None

    def listen(call: AttentionCall) -> None:
        if observers is not None:
            observers.attention.observe(call)

    progress.start("look at activations", len(relations.blocks))
    with observing(model, "eager", listen):
        steps = walk(model, relations, windows, torch.float32)
        block = next(steps, None)
        for layer in range(len(relations.blocks)):
            assert block is not None  # noqa: S101  # a walk has as many steps as there are blocks
            observers = _BlockObservers(block, layer, windows, roles)
            with observers.watching(block):
                following = next(steps, None)  # runs the block
            observers.add_to(found, text_of)
            block = following
            progress.advance()
    return found
