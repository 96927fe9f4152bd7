"""Linears with the results of an integer engine, computed in the dtype that is fast on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it
from transformers import PreTrainedModel

from slmquant.core.affine import QuantizedTensor
from slmquant.model.computing.activations import ActivationQuantizer
from slmquant.model.computing.side_branches import Branch, branch_of
from slmquant.model.linears import Linear, linear_at, weight_at


class QuantizedLinear(nn.Module):
    """A linear with quantized weight, optionally quantized inputs, and its product in any dtype.

    Only the product is computed in that dtype; input and output stay in the model's own dtype, float32. Codes are whole
    numbers, which bfloat16 holds exactly. With one scale per channel the product is therefore computed from codes and
    scaled once afterwards, as in an integer kernel; with groups, weights are dequantized first and rounded to the
    dtype.

    A side branch reads the unrounded inputs, in the same dtype. Outlier columns are 0 for the codes: they neither enter
    the product nor affect the scale of a token.

    Args:
        weight: The quantized weight, `(out, in)`; a plain tensor if the scheme keeps it in full precision.
        bias: The bias, not quantized.
        inputs: Shared quantizer of the inputs; None if the scheme does not quantize them.
        dtype: Dtype to multiply in.
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
        self.side: Branch | None = None
        if isinstance(weight, QuantizedTensor) and weight.side is not None:
            self.side = branch_of(weight.side, dtype)
            weight = replace(weight, side=None)
        out_scale = None
        if not isinstance(weight, QuantizedTensor):
            dense = weight.detach()
        elif weight.scale.shape[1] == 1 and weight.exact_in_bfloat16:
            dense, out_scale = weight.centred(), weight.scale[:, 0].clone()
        else:
            dense = weight.dequantize()
        if self.side is not None and self.side.left_out is not None:
            dense = dense.index_fill(1, self.side.left_out, 0)
        self.weight = nn.Parameter(dense.to(dtype), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_buffer("out_scale", out_scale)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`, in the dtype of `x`."""
        left_out = None if self.side is None else self.side.left_out
        codes, token_scale = (x, None) if self.inputs is None else self.inputs(x, left_out)
        out = F.linear(codes.to(self.weight.dtype), self.weight).to(x.dtype)
        if token_scale is not None:
            out.mul_(token_scale)
        if self.out_scale is not None:
            out.mul_(self.out_scale)
        if self.side is not None:
            out.add_(self.side(x))
        return out if self.bias is None else out.add_(self.bias)

    def extra_repr(self) -> str:
        """Shape, for torch's printed form of the module."""
        return f"in={self.in_features}, out={self.out_features}, scaled_once={self.out_scale is not None}"


def replace_linears_(
    model: nn.Module,
    names: Sequence[str],
    weights: Sequence[QuantizedTensor | Tensor],
    inputs: ActivationQuantizer | None,
    dtype: torch.dtype,
) -> None:
    """Replace the named linears by `QuantizedLinear`s that share one input quantizer; hooks are transferred."""
    for name, weight in zip(names, weights, strict=True):
        linear = linear_at(model, name)
        quantized = QuantizedLinear(weight, linear.bias, inputs, dtype)
        transfer_hooks_(linear, quantized)
        model.set_submodule(name, quantized)


def transfer_hooks_(linear: nn.Module, substitute: nn.Module) -> None:
    """Transfer the hooks of a linear (e.g. an online rotation) to its substitute."""
    substitute._forward_pre_hooks = linear._forward_pre_hooks
    substitute._forward_pre_hooks_with_kwargs = linear._forward_pre_hooks_with_kwargs
    substitute._forward_hooks = linear._forward_hooks
    substitute._forward_hooks_with_kwargs = linear._forward_hooks_with_kwargs
    substitute._forward_hooks_always_called = linear._forward_hooks_always_called


@contextmanager
def multiplying_in(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within this context the plain linears inside `module` multiply in `dtype`; their hooks still run.

    The original linears are restored afterwards in any case, so their weights must not be replaced meanwhile. Gradients
    flow to the inputs of linears, not to their weights. Linears that are quantized already, or whose weight has that
    dtype, do not change.
    """
    plain = {
        name: linear
        for name, linear in module.named_modules()
        if isinstance(linear, Linear) and linear.weight.dtype != dtype
    }
    try:
        for name in plain:
            replace_linears_(module, [name], [weight_at(module, name)], None, dtype)
        yield
    finally:
        for name, linear in plain.items():
            module.set_submodule(name, linear)


def multiply_in_(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make every remaining plain linear multiply in `dtype`; everything else stays in float32.

    Norms, residual stream, attention and head (see `running.output_head`) keep float32: on a machine with fast bfloat16
    products this is only a little slower than a model cast to bfloat16, and closer to float32;
    `benchmarks/precision.py` prints both.
    """
    if dtype == torch.float32:
        return
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear) and module is not head:
            replace_linears_(model, [name], [weight_at(model, name)], None, dtype)
