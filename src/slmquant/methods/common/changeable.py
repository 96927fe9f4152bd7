"""The continuous parameters of a quantized model while they are tuned: stored floats of scales, and gains of norms.

Each has a relative change, 0 at the start: `value · (1 + change)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slmquant.core import groups
from slmquant.core.affine import QuantizedTensor
from slmquant.core.scales import Parts
from slmquant.methods.common.learning import LearnedInput, LearnedLinear
from slmquant.model.computing.linear import QuantizedLinear, transfer_hooks_
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.rewriting.online_rotations import activation_clip

_CACHED_ELEMENTS = 1 << 17
"""Weights that are dequantized together."""

Changes = Mapping[tuple[str, str], Tensor]
"""Weight and part, or norm and nothing → its relative change."""


class Changeable:
    """The relative changes of all continuous parameters of a quantized model.

    Args:
        quantized: The model; its linears may be replaced while its parameters are tuned.
    """

    def __init__(self, quantized: QuantizedModel) -> None:
        self._weights = quantized.weights
        linears = {name for name, module in quantized.model.named_modules() if isinstance(module, QuantizedLinear)}
        self._gains = {
            name: (parameter, parameter.detach().clone())
            for name, parameter in quantized.model.named_parameters()
            if parameter.ndim == 1 and name.rpartition(".")[0] not in linears
        }
        values = {(name, ""): before for name, (_, before) in self._gains.items()}
        for name, codes in quantized.weights.items():
            values |= {(name, part): value for part, value in codes.parts.items() if value.is_floating_point()}
        self._changes = {
            key: torch.zeros(value.shape, device=value.device).requires_grad_() for key, value in values.items()
        }

    def parameters(self) -> Iterator[Tensor]:
        """What the optimiser changes."""
        return iter(self._changes.values())

    def changes(self) -> Changes:
        """A copy."""
        return {key: change.detach().clone() for key, change in self._changes.items()}

    @torch.no_grad()
    def set_(self, changes: Changes) -> None:
        """Go back to a copy."""
        for key, change in changes.items():
            self._changes[key].copy_(change)

    def codes(self) -> dict[str, QuantizedTensor]:
        """Weight → its codes with the scales of now, rounded as they are stored."""
        return {
            name: codes.grid.restore(codes.codes, self._parts(name, stored=True))
            for name, codes in self._weights.items()
        }

    @torch.no_grad()
    def put_(self, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of now into `weights`, and the gains into the model."""
        for name, codes in self.codes().items():
            for rows, part in _parts_of(codes):
                weights[name][rows].copy_(part.dequantize())
        for name, (parameter, before) in self._gains.items():
            parameter.copy_(before * (1 + self._changes[name, ""]))

    def take_gradients_(self, weights: Mapping[str, Tensor]) -> None:
        """Turn the gradients of weights and gains into gradients of the changes."""
        for name in self._weights:
            self._take_gradient_(name, weights[name])
        for name, (parameter, before) in self._gains.items():
            self._changes[name, ""].grad = None if parameter.grad is None else parameter.grad * before
            parameter.grad = None

    def take_at_once_(self, weights: Mapping[str, Tensor], names: Iterable[str]) -> None:
        """Turn gradients of these weights into gradients of the changes as soon as they are computed.

        Otherwise the gradients of all weights would be in memory together.
        """
        for name in names:
            weights[name].register_post_accumulate_grad_hook(partial(self._take_gradient_, name))

    def _take_gradient_(self, name: str, weight: Tensor) -> None:
        codes, gradient = self._weights[name], weight.grad
        if gradient is None:
            return
        changes = [self._changes[name, part] for part in codes.parts if (name, part) in self._changes]
        with torch.enable_grad():
            now = codes.grid.restore(codes.codes, self._parts(name, stored=False))
        outputs, gradients = zip(*_gradients(now, gradient), strict=True)
        for change, found in zip(changes, torch.autograd.grad(outputs, changes, gradients), strict=True):
            change.grad = found if change.grad is None else change.grad + found
        weight.grad = None

    def _parts(self, name: str, stored: bool) -> Parts:
        """The parts of a weight with the changes of now, in their own dtype if `stored`, else differentiable."""
        parts: dict[str, Tensor] = {}
        for part, value in self._weights[name].parts.items():
            if (change := self._changes.get((name, part))) is None:
                parts[part] = value
            else:
                changed = value.float() * (1 + change)
                parts[part] = changed.detach().to(value.dtype) if stored else changed
        return parts


@torch.no_grad()
def _gradients(codes: QuantizedTensor, gradient: Float[Tensor, "out in"]) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales, and zero points if they are differentiable, each with its gradient, from that of the weight.

    They are sums over groups, as a weight is `scale · (number − zero point)`; nothing as large as the weight is kept.
    """
    by_scale, by_point = torch.zeros_like(codes.scale), torch.zeros_like(codes.scale)
    for rows, part in _parts_of(codes):
        place = slice(None) if len(by_scale) == 1 else rows
        by_scale[place] += _sums(part.centred().mul_(gradient[rows]), part)
        if codes.zero_point is not None and codes.zero_point.requires_grad:
            by_point[place] -= part.scale * _sums(gradient[rows], part)
    yield codes.scale, by_scale
    if codes.zero_point is not None and codes.zero_point.requires_grad:
        yield codes.zero_point, by_point


def _sums(values: Float[Tensor, "rows in"], part: QuantizedTensor) -> Float[Tensor, "rows groups"]:
    """Sums over groups; over all rows, too, if they share a scale."""
    sums = torch.cat([some.sum(dim=-1) for some in groups.split(values, part.group_size)], dim=1)
    return sums if len(part.scale) == len(sums) else sums.sum(dim=0, keepdim=True)


def _parts_of(codes: QuantizedTensor) -> Iterator[tuple[slice, QuantizedTensor]]:
    """The rows of a weight, some at a time, for which its floats stay in the processor's cache."""
    count, size = codes.codes.shape
    step = count if codes.grid.storage.spans_rows else max(1, _CACHED_ELEMENTS // size)
    for start in range(0, count, step):
        stop = min(start + step, count)
        yield slice(start, stop), codes if step == count else codes.rows(start, stop)


@contextmanager
def learning_weights(quantized: QuantizedModel) -> Iterator[Mapping[str, Float[Tensor, "out in"]]]:
    """Within this context all quantized weights are float32 tensors that gradients flow to; yields them by name.

    Afterwards the linears are those of before.
    """
    model, weights, replaced = quantized.model, dict[str, Tensor](), dict[str, nn.Module]()
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for group in quantized.groups:
            shared = _input(quantized, group.linears)
            for name in group.linears:
                replaced[name] = before = model.get_submodule(name)
                linear = LearnedLinear(shared, dict(before.named_parameters()).get("bias"))
                linear.weight = weights[name] = quantized.weights[name].dequantize().requires_grad_()
                transfer_hooks_(replaced[name], linear)
                model.set_submodule(name, linear)
        for name in quantized.weights.keys() - weights.keys():
            weights[name] = model.get_submodule(name).get_parameter("weight").requires_grad_()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.requires_grad_()
        yield weights
    finally:
        for name, module in replaced.items():
            model.set_submodule(name, module)
        for parameter, requires_grad in required:
            parameter.requires_grad_(requires_grad)
            parameter.grad = None


def _input(quantized: QuantizedModel, linears: Sequence[str]) -> LearnedInput:
    """The input of linears that share one, rounded as the model rounds it."""
    static = quantized.activation_scales.get(linears[0])
    scale = None if static is None else torch.tensor(static, device=quantized.model.device)
    return LearnedInput(quantized.scheme.activations, torch.float32, scale, activation_clip(quantized.online))


def install_(quantized: QuantizedModel, weights: Mapping[str, QuantizedTensor]) -> None:
    """Put other codes in place of those of a quantized model."""
    for name, codes in weights.items():
        module = quantized.model.get_submodule(name)
        if isinstance(module, QuantizedLinear):
            substitute = QuantizedLinear(codes, module.bias, module.inputs, quantized.dtype)
            transfer_hooks_(module, substitute)
            quantized.model.set_submodule(name, substitute)
        else:
            module.get_parameter("weight").copy_(codes.dequantize())
