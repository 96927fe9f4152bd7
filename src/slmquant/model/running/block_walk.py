"""Walks through a model block by block, with the actual inputs of each decoder block.

Learning and sequential methods quantize one block at a time and need its inputs as computed by the quantized blocks
before it. Keeping those inputs for all calibration tokens costs one `(samples, seq, hidden)` tensor, and moving to the
next block costs one forward pass of the block, so a whole walk costs one forward pass of the model.

The other arguments of a block (masks, rotary embeddings, ALiBi, per layer type) are recorded from the model's own
forward pass and replayed. They are the same for every window; some of them are repeated once for each sequence of a
batch. These are identified by recording a batch of one and a batch of two, so that any batch size can be replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.errors import ModelError
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.discovery.block_replay import BlockCall, record_block_calls
from slmquant.model.linears import Linear, linear_at, weight_at
from slmquant.model.structure import InputGroup, Relations

_BATCH_TOKENS = 2048
"""Tokens of a forward pass: enough for fast products, and the attention scores of one batch stay small."""


Exact = Literal["nothing", "inputs", "outputs"]
"""Part of the full-precision model's states that a walk keeps: nothing; the inputs of each block, which the caller must
replace by its outputs (`CurrentBlock.move_on_`), for one more tensor of `(samples, seq, hidden)`; or inputs and
outputs, for two more tensors and one more forward pass."""


@dataclass(frozen=True)
class CurrentBlock:
    """The decoder block that a walk has reached, and its inputs.

    Attributes:
        name: Its module name in the model.
        module: The block itself; its linears are plain ones in float32 until the driver replaces them.
        groups: Linears of this block that share an input, in execution order; full module names.
        inputs: Hidden states from the quantized blocks before. They are overwritten in the next step of the walk.
        exact_inputs: Hidden states from full-precision blocks, computed from the model's embeddings at the start of the
            walk; None unless requested.
        exact_outputs: Output of the full-precision block for `exact_inputs`; None unless requested.
        arguments: Arguments of the block other than the hidden states.
    """

    name: str
    module: nn.Module
    groups: tuple[InputGroup, ...]
    inputs: Float[Tensor, "samples seq hidden"]
    exact_inputs: Float[Tensor, "samples seq hidden"] | None
    exact_outputs: Float[Tensor, "samples seq hidden"] | None
    arguments: BlockArguments

    def run(self, hidden: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch seq hidden"]:
        """Run the block in its current state on hidden states of any number of windows; differentiable.

        Plain linears multiply in float32; `computing.linear.multiplying_in` changes that temporarily.

        Raises:
            ValueError: The windows are not as long as those of the walk.
        """
        if hidden.shape[1] != self.inputs.shape[1]:
            raise ValueError(
                f"{self.name} got windows of {hidden.shape[1]} tokens; expected {self.inputs.shape[1]}, as in the walk"
            )
        return self.arguments.call(self.module, hidden)

    def linear(self, name: str) -> Linear:
        """The linear of this block with that full module name.

        Raises:
            TypeError: The module of that name is not a plain linear (any more).
        """
        return linear_at(self.module, self._inside(name))

    def weight(self, name: str) -> Float[Tensor, "out in"]:
        """The weight of the linear with that full module name, for either layout; a view."""
        return weight_at(self.module, self._inside(name))

    def move_on_(self, part: slice, outputs: Float[Tensor, "batch seq hidden"]) -> None:
        """Replace some exact inputs by the outputs of the full-precision block.

        This also changes every view of those inputs, so call it after their last use.

        Raises:
            ValueError: The walk keeps no exact inputs, or keeps exact outputs itself.
        """
        if self.exact_inputs is None or self.exact_outputs is not None:
            raise ValueError(f"cannot replace the exact inputs of {self.name}; use a walk with wants_exact='inputs'")
        self.exact_inputs[part] = outputs

    def batches(self) -> list[slice]:
        """Slices of the samples that are run together, about 2048 tokens each."""
        return _batches(self.inputs)

    def _inside(self, name: str) -> str:
        return name.removeprefix(f"{self.name}.")


def walk(
    model: PreTrainedModel,
    relations: Relations,
    windows: Int[Tensor, "samples seq"],
    dtype: torch.dtype,
    wants_exact: Exact = "nothing",
) -> Iterator[CurrentBlock]:
    """Yield every decoder block in turn.

    The caller may change the block before the next step: replace its linears by codes, tune its norms. The input of the
    next block is computed from the changed block.

    Args:
        model: The model, in float32, after all transforms. Hooks on its blocks run as in its own forward pass. It is
            put into evaluation mode.
        relations: Its relations.
        windows: Calibration tokens.
        dtype: Dtype that plain linears multiply in.
        wants_exact: Full-precision states to keep.

    Raises:
        ModelError: An argument of a block other than the hidden states depends on the tokens.
    """
    model.train(False)
    blocks = {name: model.get_submodule(name) for name in relations.blocks}
    arguments = _record(model, blocks, windows)
    inputs = _entering(model, blocks[relations.blocks[0]], windows)
    exact_inputs = None if wants_exact == "nothing" else inputs.clone()
    for name, block in blocks.items():
        groups = tuple(group for group in relations.groups if group.linears[0].startswith(f"{name}."))
        exact_outputs = None
        if exact_inputs is not None and wants_exact == "outputs":
            exact_outputs = torch.empty_like(exact_inputs)
            _advance_(block, arguments[name], exact_inputs, exact_outputs, dtype)
        yield CurrentBlock(name, block, groups, inputs, exact_inputs, exact_outputs, arguments[name])
        _advance_(block, arguments[name], inputs, inputs, dtype)
        if exact_outputs is not None:
            exact_inputs = exact_outputs


@dataclass(frozen=True)
class BlockArguments:
    """Arguments of one block other than the hidden states, for batches of any size.

    Attributes:
        single: The call recorded with a batch of one.
        repeated: For each tensor in it, in the order of `_tensors`, the dimension that grows with the batch; None for
            tensors that all sequences share.
    """

    single: BlockCall
    repeated: tuple[int | None, ...]

    def call(self, block: nn.Module, hidden: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch seq hidden"]:
        """Run `block` on `hidden` with these arguments."""
        repeated = iter(self.repeated)
        args, kwargs = _mapped((self.single.args, self.single.kwargs), lambda t: _tiled(t, next(repeated), len(hidden)))
        output = block(hidden, *args[1:], **kwargs) if args else block(**{**kwargs, "hidden_states": hidden})
        first: Tensor = output if isinstance(output, Tensor) else output[0]
        return first


@torch.no_grad()
def _record(
    model: PreTrainedModel, blocks: dict[str, nn.Module], windows: Int[Tensor, "samples seq"]
) -> dict[str, BlockArguments]:
    """Record the arguments of each block other than the hidden states."""
    pair = windows[[0, -1]].to(model.device)
    singles = record_block_calls(model, blocks, pair[:1])
    doubles = record_block_calls(model, blocks, pair)
    return {name: _compared(name, singles[name], doubles[name]) for name in blocks}


def _compared(name: str, single: BlockCall, double: BlockCall) -> BlockArguments:
    """Find the arguments that grow with the batch, and check that none depends on the tokens."""
    single, double = _without_hidden(single), _without_hidden(double)
    repeated = []
    ones, twos = _tensors(single), _tensors(double)
    for one, two in zip(ones, twos, strict=True):
        grown = [dim for dim, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
        dim = grown[0] if grown else None
        if not torch.equal(_tiled(one, dim, 2), two):
            raise ModelError(
                f"{name} receives an argument of shape {tuple(two.shape)} that depends on the tokens; quantizing block "
                "by block needs arguments that are the same for all windows; use a method that does not, such as gptq"
            )
        repeated.append(dim)
    return BlockArguments(single, tuple(repeated))


def _without_hidden(call: BlockCall) -> BlockCall:
    """The call with None in place of the hidden states: the first argument, or the keyword `hidden_states`."""
    if call.args:
        return BlockCall((None, *call.args[1:]), call.kwargs)
    return BlockCall((), {**call.kwargs, "hidden_states": None})


class _Entered(Exception):  # noqa: N818  # not an error: it ends a forward pass early
    """The first block was reached."""


@torch.no_grad()
def _entering(
    model: PreTrainedModel, first: nn.Module, windows: Int[Tensor, "samples seq"]
) -> Float[Tensor, "samples seq hidden"]:
    """Input of the first block, before its own hooks; the blocks are not run."""
    entered: list[Tensor] = []

    def keep(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])
        raise _Entered

    hook = first.register_forward_pre_hook(keep, prepend=True, with_kwargs=True)
    hidden: Tensor | None = None
    try:
        for part in _batches(windows):
            with suppress(_Entered):
                model.base_model(input_ids=windows[part].to(model.device), use_cache=False)
            states = entered.pop()
            if hidden is None:
                hidden = states.new_empty(*windows.shape, states.shape[-1])  # one allocation: half the memory
            hidden[part] = states
    finally:
        hook.remove()
    if hidden is None:
        raise ValueError("there are no calibration windows; expected at least one")
    return hidden


@torch.no_grad()
def _advance_(
    block: nn.Module,
    arguments: BlockArguments,
    hidden: Float[Tensor, "samples seq hidden"],
    out: Float[Tensor, "samples seq hidden"],
    dtype: torch.dtype,
) -> None:
    """Run `block` on `hidden` and write the result into `out`, which may be the same tensor."""
    with multiplying_in(block, dtype):
        for part in _batches(hidden):
            out[part] = arguments.call(block, hidden[part])


def _batches(windows: Tensor) -> list[slice]:
    size = max(1, _BATCH_TOKENS // windows.shape[1])
    return [slice(start, min(start + size, len(windows))) for start in range(0, len(windows), size)]


def _tiled(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    """Repeat a tensor recorded with a batch of one for a larger batch."""
    if dim is None:
        return tensor
    if tensor.shape[dim] == 1:
        return tensor.expand(*(batch if d == dim else -1 for d in range(tensor.ndim)))
    return torch.cat([tensor] * batch, dim)


def _mapped(value: Any, change: Any) -> Any:
    """Apply `change` to every tensor inside nested tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_mapped(item, change) for item in value)
    return value


def _tensors(call: BlockCall) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped((call.args, call.kwargs), note)
    return found
