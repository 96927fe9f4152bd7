"""Run-time operations of methods: rotations of inputs and outputs by hooks, clipping, and their storage.

Most of a rotation is merged into weights. The rest is done at run time: the residual stream is rotated where it enters
the first block and rotated back where it leaves the last (R1), the input of a linear behind a non-linearity is rotated
before it enters (R4), queries and keys are rotated after the rotary embedding (R3, by `model.computing.kv_cache`).

A rotation belongs to a module's name, not to the module object: `attach_` may be called again at any time, and code
that replaces a linear transfers its hooks (`model.computing.linear.replace_linears_`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from slmquant.core.hadamard import Hadamard, hadamard
from slmquant.core.rotation import DenseRotation, Rotation, SignedHadamard


@dataclass(frozen=True)
class OnlineRotation:
    """A rotation of a module's input or output.

    Attributes:
        module: Name of the module in the model.
        site: Whether the input or the output is rotated.
        rotation: The rotation of the last dimension.
        undo: Whether the rotation is undone instead of applied.
    """

    module: str
    site: Literal["input", "output"]
    rotation: Rotation
    undo: bool = False


@dataclass(frozen=True)
class RotatedKeys:
    """Rotate queries and keys by the Hadamard matrix of their head's width, after the rotary embedding (R3)."""


@dataclass(frozen=True)
class ClippedActivations:
    """Clip the inputs of linears to a share of their range, which makes the scales of tokens smaller.

    Attributes:
        ratio: The share, in (0, 1].
    """

    ratio: float


Online = OnlineRotation | RotatedKeys | ClippedActivations
"""A run-time operation of a method."""


def key_rotation(online: Iterable[Online]) -> Callable[[int], Hadamard] | None:
    """The argument `rotate` of `model.computing.kv_cache.quantize_cache_`: None if keys are not rotated."""
    return hadamard if any(isinstance(entry, RotatedKeys) for entry in online) else None


def activation_clip(online: Iterable[Online]) -> float:
    """Share of their range that inputs of linears are clipped to; 1 without clipping."""
    return next((entry.ratio for entry in online if isinstance(entry, ClippedActivations)), 1.0)


def attach_(model: nn.Module, online: Iterable[Online]) -> None:
    """Install the rotations as hooks; an installed rotation of the same module is replaced.

    The hook runs before hooks that are registered later, so statistics are those of the rotated input. Keys are rotated
    by `computing.kv_cache.quantize_cache_` instead (see `key_rotation`), and activations are clipped by
    `model.computing.activations.ActivationQuantizer` (see `activation_clip`).
    """
    for entry in online:
        if not isinstance(entry, OnlineRotation):
            continue
        module = model.get_submodule(entry.module)
        detach_(module, entry.site)
        if entry.site == "input":
            module.register_forward_pre_hook(_TurnInput(entry.rotation, entry.undo), with_kwargs=True)
        else:
            module.register_forward_hook(_TurnOutput(entry.rotation, entry.undo))


def detach_(module: nn.Module, site: Literal["input", "output"]) -> None:
    """Remove the rotations that `attach_` installed on the input or output of a module."""
    hooks = module._forward_pre_hooks if site == "input" else module._forward_hooks
    with_kwargs = module._forward_pre_hooks_with_kwargs if site == "input" else module._forward_hooks_with_kwargs
    for key in [key for key, hook in hooks.items() if isinstance(hook, _TurnInput | _TurnOutput)]:
        del hooks[key]
        with_kwargs.pop(key, None)


def turns_input(module: nn.Module) -> bool:
    """Whether the input of a module is rotated at run time."""
    return any(isinstance(hook, _TurnInput) for hook in module._forward_pre_hooks.values())


@dataclass(frozen=True)
class _TurnInput:
    """A forward pre-hook that rotates the first argument, or the keyword argument `hidden_states`."""

    rotation: Rotation
    undo: bool

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        turn = self.rotation.undo if self.undo else self.rotation.apply
        if args:
            return (turn(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": turn(kwargs["hidden_states"])}


@dataclass(frozen=True)
class _TurnOutput:
    """A forward hook that rotates the output, or its first element."""

    rotation: Rotation
    undo: bool

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        turn = self.rotation.undo if self.undo else self.rotation.apply
        return turn(output) if isinstance(output, Tensor) else (turn(output[0]), *output[1:])


def stored_bits(online: Iterable[Online]) -> int:
    """Stored bits of the rotations: 0 for a Hadamard matrix, 8 per random sign, 16 per entry of a dense matrix.

    A rotation that is used in several places counts once.
    """
    return sum(tensor.numel() * tensor.element_size() * 8 for tensor in encode(list(online)).tensors.values())


class OnlineFact(BaseModel):
    """Description of one run-time operation in a file, apart from its tensor."""

    model_config = ConfigDict(extra="forbid")
    module: str
    """Empty for rotated keys and clipped activations, which concern all modules."""
    site: Literal["input", "output", "keys", "activations"]
    kind: Literal["hadamard", "signed", "signed-keeps-mean", "dense", "clipped"]
    order: int
    """Rows of the matrix; 0 for rotated keys, whose order is the width of a head, and for clipped activations."""
    tensor: str | None = None
    """Name of the tensor with the signs or the matrix; modules that share a rotation share it."""
    undo: bool = False
    ratio: float | None = Field(default=None, gt=0, le=1)
    """Share of the range, for clipped activations."""


class Encoded(NamedTuple):
    """Run-time operations in their stored form."""

    tensors: dict[str, Tensor]
    facts: tuple[OnlineFact, ...]


def encode(online: Sequence[Online]) -> Encoded:
    """Convert run-time operations into tensors and facts; `decode` restores them."""
    tensors: dict[str, Tensor] = {}
    names: dict[int, str | None] = {}
    facts = []
    for entry in online:
        if isinstance(entry, RotatedKeys):
            facts.append(OnlineFact(module="", site="keys", kind="hadamard", order=0))
            continue
        if isinstance(entry, ClippedActivations):
            facts.append(OnlineFact(module="", site="activations", kind="clipped", order=0, ratio=entry.ratio))
            continue
        rotation = entry.rotation
        if id(rotation) not in names:
            tensor = _tensor_of(rotation)
            names[id(rotation)] = None if tensor is None else f"online.{len(tensors)}"
            if tensor is not None:
                tensors[f"online.{len(tensors)}"] = tensor
        facts.append(
            OnlineFact(
                module=entry.module,
                site=entry.site,
                kind=_kind(rotation),
                order=rotation.order,
                tensor=names[id(rotation)],
                undo=entry.undo,
            )
        )
    return Encoded(tensors, tuple(facts))


def decode(tensors: Mapping[str, Tensor], facts: Iterable[OnlineFact]) -> list[Online]:
    """Restore the operations given to `encode`; dense matrices keep their stored precision.

    Raises:
        KeyError: A tensor is missing.
    """
    rotations: dict[tuple[str, int, str | None], Rotation] = {}
    online: list[Online] = []
    for fact in facts:
        if fact.site == "keys":
            online.append(RotatedKeys())
            continue
        if fact.site == "activations":
            online.append(ClippedActivations(1.0 if fact.ratio is None else fact.ratio))
            continue
        key = fact.kind, fact.order, fact.tensor
        if key not in rotations:
            rotations[key] = _rotation(fact, tensors)
        online.append(OnlineRotation(fact.module, fact.site, rotations[key], fact.undo))
    return online


def _kind(rotation: Rotation) -> Literal["hadamard", "signed", "signed-keeps-mean", "dense"]:
    if isinstance(rotation, SignedHadamard):
        return "signed-keeps-mean" if rotation.keeps_mean else "signed"
    return "hadamard" if isinstance(rotation, Hadamard) else "dense"


def _tensor_of(rotation: Rotation) -> Tensor | None:
    if isinstance(rotation, SignedHadamard):
        return rotation.signs.to(torch.int8)
    return rotation.values.half().contiguous() if isinstance(rotation, DenseRotation) else None


def _rotation(fact: OnlineFact, tensors: Mapping[str, Tensor]) -> Rotation:
    if fact.tensor is None:
        return hadamard(fact.order)
    tensor = tensors[fact.tensor]
    if fact.kind == "dense":
        return DenseRotation(tensor)
    return SignedHadamard(hadamard(fact.order), tensor.float(), fact.kind == "signed-keeps-mean")
