"""Torch in float32: the reference. It computes with the rounded numbers themselves, so it has no speed to report."""

from slmquant.engines.common.torch_sessions import TorchEngine

ENGINE = TorchEngine(
    title="torch eager, float32",
    summary="the reference: rounded weights in full-precision products; what is evaluated elsewhere in slmquant",
    dtype="float32",
)
