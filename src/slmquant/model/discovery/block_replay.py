"""Replays one decoder block, optionally scaling channels and recording tensors.

The model itself is only observed: the inputs of its blocks are recorded in one forward pass, and everything else
happens in a float64 copy of one block. So tests cannot change the model, and exact equalities hold to thirteen digits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.model.discovery.float64 import computing_in_float64

TensorKey = tuple[int, ...]


@dataclass(frozen=True)
class BlockCall:
    """The arguments of one call of a decoder block."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def record_block_calls(
    model: PreTrainedModel, blocks: Mapping[str, nn.Module], input_ids: Tensor
) -> dict[str, BlockCall]:
    """Run the model once on `input_ids`, shape `(batch, seq)`, and record the arguments of each block.

    The model's weights, hooks and training modes do not change, even if its forward pass fails.
    """
    calls: dict[str, BlockCall] = {}
    modes = {module: module.training for module in model.modules()}

    with ExitStack() as hooks:
        for name, block in blocks.items():

            def keep(_block: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                calls[name] = BlockCall(args, dict(kwargs))

            hooks.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
        try:
            model.train(False)
            with torch.no_grad():
                model.base_model(input_ids=input_ids, use_cache=False)  # the head is not needed
        finally:
            for module, training in modes.items():
                module.training = training
    return calls


@dataclass(frozen=True)
class Run:
    """One replay of a block.

    Attributes:
        output: Output of the block, `(batch, seq, hidden)`.
        inputs: Input of each watched linear, by name, in the order of execution, before any scaling.
        outputs: Output of each watched module.
    """

    output: Tensor
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class BlockReplay:
    """A float64 copy of one decoder block with its recorded inputs.

    Args:
        block: The block; it is copied.
        call: The block's arguments, recorded with `batch` equal sequences.
        batch: Number of sequences. They are equal, so that each can carry a separate test.
    """

    def __init__(self, block: nn.Module, call: BlockCall, batch: int) -> None:
        self.block = copy.deepcopy(block).double().train(False)
        self.batch = batch
        self.device = next(self.block.parameters()).device
        self._args = _in_float64(call.args)
        self._kwargs = _in_float64(call.kwargs)

    def ones(self, channels: int) -> Tensor:
        """Neutral factors, `(batch, channels)`."""
        return torch.ones(self.batch, channels, dtype=torch.float64, device=self.device)

    def run(
        self,
        watch: tuple[str, ...] = (),
        scale_inputs: Mapping[str, Tensor] | None = None,
        scale_outputs: Mapping[str, Tensor] | None = None,
        replace_outputs: Mapping[str, Tensor] | None = None,
    ) -> Run:
        """Run the block.

        Args:
            watch: Names of modules whose inputs and outputs are recorded.
            scale_inputs: Factors, `(batch, channels)`, on the input of a module.
            scale_outputs: Factors, `(batch, channels)`, on the output of a module.
            replace_outputs: Replacement for the output of a module, `(batch, seq, channels)`.
        """
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        scale_inputs, scale_outputs = scale_inputs or {}, scale_outputs or {}
        replace_outputs = replace_outputs or {}

        with ExitStack() as hooks:
            for name in {*watch, *scale_inputs, *scale_outputs, *replace_outputs}:
                module = self.block.get_submodule(name)

                def enter(_module: nn.Module, args: tuple[Any, ...], name: str = name) -> Any:
                    if not args or not isinstance(args[0], Tensor):
                        return None
                    if name in watch:
                        inputs[name] = args[0]
                    if name in scale_inputs:
                        return (_scaled(args[0], scale_inputs[name]), *args[1:])
                    return None

                def leave(_module: nn.Module, _args: Any, output: Any, name: str = name) -> Any:
                    if not isinstance(output, Tensor):
                        return None
                    result = output
                    if name in replace_outputs:
                        result = replace_outputs[name].reshape(output.shape)
                    if name in scale_outputs:
                        result = _scaled(result, scale_outputs[name])
                    if name in watch:
                        outputs[name] = result
                    return result

                hooks.callback(module.register_forward_pre_hook(enter).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
            with torch.no_grad(), computing_in_float64():
                output = self.block(*self._args, **self._kwargs)
        return Run(output if isinstance(output, Tensor) else output[0], inputs, outputs)


def tensor_key(tensor: Tensor) -> TensorKey:
    """A key that is equal for two views of the same memory, as long as both tensors are alive."""
    version = tensor._version  # changes with every in-place operation
    return tensor.data_ptr(), tensor.numel(), tensor.shape[-1], tensor.stride(-1), version


def _scaled(tensor: Tensor, factors: Tensor) -> Tensor:
    """Scale the channels of each sequence; batch and sequence may be folded into any shape."""
    batch, channels = factors.shape
    return (tensor.reshape(batch, -1, channels) * factors[:, None]).reshape(tensor.shape)


def _in_float64(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _in_float64(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_in_float64(item) for item in value)
    return value
