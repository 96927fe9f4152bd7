"""Walking a model block by block: each decoder block in hand, with what the blocks before it really give.

Methods that learn, and sequential ones, quantize one block at a time and want its inputs as the quantized blocks
before produce them. Keeping those inputs for all calibration tokens costs one `(samples, seq, hidden)` tensor, and
moving to the next block costs one forward pass of the block, so a whole walk is one forward pass of the model.

What a block is given beside the hidden states (masks, rotary embeddings, ALiBi, of which layer type it may be) is
recorded from the model's own forward pass and replayed. Such arguments are the same for every window; some of them
are repeated once for each sequence of a batch. Which ones is seen by recording a batch of one and a batch of two, so
that any batch size can be replayed.
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
from slmquant.model.computing.linear import Linear, linear_at, multiplying_in, weight_at
from slmquant.model.discovery.block_replay import BlockCall, record_block_calls
from slmquant.model.discovery.relations import InputGroup, Relations

_BATCH_TOKENS = 2048
"""Tokens of a forward pass: enough for fast products, and the attention scores of one batch stay small."""


Exact = Literal["nothing", "inputs", "outputs"]
"""What a walk keeps of the full-precision model: nothing; what it gives each block, which whoever has the block in hand
replaces by the outputs (`CurrentBlock.move_on_`), for one more tensor of `(samples, seq, hidden)`; or inputs and
outputs, for two more and one more forward pass."""


@dataclass(frozen=True)
class CurrentBlock:
    """One decoder block, and what it receives.

    Attributes:
        name: Its module name in the model.
        module: The block itself, its linears plain ones in float32 until the driver replaces them.
        groups: Linears of this block that share an input, in execution order; full module names.
        inputs: Hidden states as the quantized blocks before give them. They are overwritten when the walk goes on.
        exact_inputs: Hidden states as full-precision blocks give them, from the embeddings that the model has when the
            walk begins; None where the walk was not asked for them.
        exact_outputs: What the full-precision block makes of `exact_inputs`; None where the walk was not asked for it.
        arguments: What the model gives this block beside the hidden states.
    """

    name: str
    module: nn.Module
    groups: tuple[InputGroup, ...]
    inputs: Float[Tensor, "samples seq hidden"]
    exact_inputs: Float[Tensor, "samples seq hidden"] | None
    exact_outputs: Float[Tensor, "samples seq hidden"] | None
    arguments: BlockArguments

    def run(self, hidden: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch seq hidden"]:
        """What the block, as it is now, makes of hidden states of any number of windows; differentiable.

        Linears compute as they are: plain ones multiply in float32, `computing.linear.multiplying_in` changes that
        for a while.

        Raises:
            ValueError: The windows are not as long as those that the walk began with.
        """
        if hidden.shape[1] != self.inputs.shape[1]:
            raise ValueError(f"windows of {hidden.shape[1]} tokens, but {self.name} walks {self.inputs.shape[1]}")
        return self.arguments.call(self.module, hidden)

    def linear(self, name: str) -> Linear:
        """The linear of this block that has that full module name.

        Raises:
            TypeError: What bears the name is no linear, or not a plain one any more.
        """
        return linear_at(self.module, self._inside(name))

    def weight(self, name: str) -> Float[Tensor, "out in"]:
        """The weight of the linear of that full module name, whatever the module's own layout; a view."""
        return weight_at(self.module, self._inside(name))

    def move_on_(self, part: slice, outputs: Float[Tensor, "batch seq hidden"]) -> None:
        """Put what the full-precision block makes of some exact inputs in their place.

        Whoever still holds those inputs, or a view of them, sees them change: it comes last.

        Raises:
            ValueError: The walk was not asked for exact inputs, or keeps their outputs itself.
        """
        if self.exact_inputs is None or self.exact_outputs is not None:
            raise ValueError(f"the walk did not leave the exact inputs of {self.name} to be replaced by their outputs")
        self.exact_inputs[part] = outputs

    def batches(self) -> list[slice]:
        """The samples in parts that are run together, of about 2048 tokens each."""
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
    """Every decoder block in turn.

    Whoever iterates may change the block between two steps: put codes in place of its linears, tune its norms. What
    the next block receives is computed from the block as it then is.

    Args:
        model: The model, in float32; transforms were applied already. Hooks on its blocks run as in its own forward
            pass. It is put into evaluation mode.
        relations: Its relations.
        windows: Calibration tokens.
        dtype: What linears that are still plain ones multiply in.
        wants_exact: What is kept of the full-precision model beside.

    Raises:
        ModelError: What the model gives its blocks depends on the tokens by more than the hidden states.
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
    """What a model gives one block beside the hidden states, for batches of any size.

    Attributes:
        single: The call that was recorded with a batch of one.
        repeated: For each tensor in it, in the order of `_tensors`, the dimension that grows with the batch; None
            for those that all sequences share.
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
    """What each block is called with beside its hidden states."""
    pair = windows[[0, -1]].to(model.device)
    singles = record_block_calls(model, blocks, pair[:1])
    doubles = record_block_calls(model, blocks, pair)
    return {name: _compared(name, singles[name], doubles[name]) for name in blocks}


def _compared(name: str, single: BlockCall, double: BlockCall) -> BlockArguments:
    """Find out which arguments grow with the batch, and make sure that none depends on the tokens."""
    single, double = _without_hidden(single), _without_hidden(double)
    repeated = []
    ones, twos = _tensors(single), _tensors(double)
    for one, two in zip(ones, twos, strict=True):
        grown = [dim for dim, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
        dim = grown[0] if grown else None
        if not torch.equal(_tiled(one, dim, 2), two):
            raise ModelError(
                f"{name} receives a tensor of shape {tuple(two.shape)} that depends on the tokens; walking block by "
                "block can replay only what is the same for all windows"
            )
        repeated.append(dim)
    return BlockArguments(single, tuple(repeated))


def _without_hidden(call: BlockCall) -> BlockCall:
    """The call with None in the place of the hidden states: the first argument, or the one of that name."""
    if call.args:
        return BlockCall((None, *call.args[1:]), call.kwargs)
    return BlockCall((), {**call.kwargs, "hidden_states": None})


class _Entered(Exception):  # noqa: N818  # no error: it ends a forward pass that has shown enough
    """The first block was reached."""


@torch.no_grad()
def _entering(
    model: PreTrainedModel, first: nn.Module, windows: Int[Tensor, "samples seq"]
) -> Float[Tensor, "samples seq hidden"]:
    """What enters the first block, before any hook of its own; nothing behind it is computed."""
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
                hidden = states.new_empty(*windows.shape, states.shape[-1])  # all at once: parts and whole are twice
            hidden[part] = states
    finally:
        hook.remove()
    if hidden is None:
        raise ValueError("there are no windows to walk with; expected at least one")
    return hidden


@torch.no_grad()
def _advance_(
    block: nn.Module,
    arguments: BlockArguments,
    hidden: Float[Tensor, "samples seq hidden"],
    out: Float[Tensor, "samples seq hidden"],
    dtype: torch.dtype,
) -> None:
    """Write what `block` makes of `hidden` into `out`, which may be the same tensor."""
    with multiplying_in(block, dtype):
        for part in _batches(hidden):
            out[part] = arguments.call(block, hidden[part])


def _batches(windows: Tensor) -> list[slice]:
    size = max(1, _BATCH_TOKENS // windows.shape[1])
    return [slice(start, min(start + size, len(windows))) for start in range(0, len(windows), size)]


def _tiled(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    """`tensor` of a batch of one as a larger batch has it."""
    if dim is None:
        return tensor
    if tensor.shape[dim] == 1:
        return tensor.expand(*(batch if d == dim else -1 for d in range(tensor.ndim)))
    return torch.cat([tensor] * batch, dim)


def _mapped(value: Any, change: Any) -> Any:
    """`value` with every tensor inside its tuples, lists and dictionaries changed, in order."""
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
