"""Modules that compute what an integer engine would, in the dtype that the machine is fast in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it
from transformers.pytorch_utils import Conv1D

from slmquant.core.affine import QuantizedTensor, TokenCodes, encode_activations

Linear = nn.Linear | Conv1D
"""What counts as a linear: torch's, and GPT-2's with its transposed weight."""


def linear_at(model: nn.Module, name: str) -> Linear:
    """The linear of that name.

    Raises:
        TypeError: What bears the name is no linear.
    """
    module = model.get_submodule(name)
    if not isinstance(module, Linear):
        raise TypeError(f"{name!r} is a {type(module).__name__}, expected a linear")
    return module


def weight_at(model: nn.Module, name: str) -> Tensor:
    """The weight of the linear of that name as `(out, in)`, whatever the module's own layout; a view."""
    linear = linear_at(model, name)
    return linear.weight.T if isinstance(linear, Conv1D) else linear.weight


class ActivationQuantizer(nn.Module):
    """Rounds the inputs of linears to integers, per token or with one calibrated scale.

    Linears that receive the very same tensor (q, k and v; gate and up) share one quantizer, which then works once
    for all of them: it remembers the last tensor it saw.

    Args:
        bits: Bits of a code.
        static_scale: The calibrated scale of the whole tensor; None for one scale per token.
    """

    def __init__(self, bits: int, static_scale: float | None = None) -> None:
        super().__init__()
        self.bits = bits
        self.static_scale = static_scale
        self._last: tuple[Tensor, TokenCodes] | None = None

    def forward(self, x: Tensor) -> TokenCodes:
        """Codes in the dtype of `x`, and their scale in float32."""
        if self._last is None or self._last[0] is not x:
            scale = None if self.static_scale is None else x.new_tensor(self.static_scale, dtype=torch.float32)
            self._last = (x, encode_activations(x, self.bits, scale))
        return self._last[1]

    def forget(self) -> None:
        """Let go of the last tensor."""
        self._last = None


class QuantizedLinear(nn.Module):
    """A linear with quantized weight, and quantized inputs where a quantizer is given.

    Codes are whole numbers, exact in bfloat16. Where a channel has one scale the product is therefore taken over
    codes and scaled once afterwards, as an integer kernel does; only with groups are weights dequantized first,
    and rounded to the compute dtype.

    Args:
        weight: The quantized weight, `(out, in)`; a plain tensor where a scheme quantizes only the inputs.
        bias: The bias, kept as it is.
        inputs: Shared quantizer of the inputs; None leaves them in the compute dtype.
        dtype: What to compute in.
    """

    out_scale: Tensor | None

    def __init__(
        self,
        weight: QuantizedTensor | Tensor,
        bias: Tensor | None,
        inputs: ActivationQuantizer | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        one_scale = isinstance(weight, QuantizedTensor) and weight.scale.shape[1] == 1
        if isinstance(weight, QuantizedTensor):
            dense = weight.centred() if one_scale else weight.dequantize()
        else:
            dense = weight.detach()
        self.weight = nn.Parameter(dense.to(dtype), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        self.register_buffer("out_scale", weight.scale[:, 0].clone() if one_scale else None)  # type: ignore[union-attr]  # one_scale says which it is

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        factors = [] if self.out_scale is None else [self.out_scale]
        codes = x
        if self.inputs is not None:
            codes, scale = self.inputs(x)
            factors.append(scale)
        if not factors:
            return F.linear(x, self.weight, self.bias)
        out = F.linear(codes, self.weight)
        for factor in factors:  # in float32, whatever the product was taken in
            out = out * factor
        out = out.to(x.dtype)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """Shape, as torch prints a module."""
        return f"in={self.in_features}, out={self.out_features}, scaled_once={self.out_scale is not None}"


def forget_activations(model: nn.Module) -> None:
    """Let every activation quantizer go of the last tensor it saw."""
    for module in model.modules():
        if isinstance(module, ActivationQuantizer):
            module.forget()


def replace_linears_(
    model: nn.Module,
    names: Sequence[str],
    weights: Sequence[QuantizedTensor | Tensor],
    inputs: ActivationQuantizer | None,
    dtype: torch.dtype,
) -> None:
    """Put `QuantizedLinear`s that share one input quantizer where the named linears were."""
    for name, weight in zip(names, weights, strict=True):
        bias = linear_at(model, name).bias
        model.set_submodule(name, QuantizedLinear(weight, bias, inputs, dtype))
