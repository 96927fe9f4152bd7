"""Torch in float32: the reference. It multiplies dequantized weights, so its speed is not reported."""

from slmquant.engines.common.torch_sessions import TorchEngine

ENGINE = TorchEngine(
    title="torch eager, float32",
    summary="the reference: rounded weights in full-precision products, as evaluated elsewhere in slmquant",
    dtype="float32",
)
