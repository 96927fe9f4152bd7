"""Torch in bfloat16: the cost of a full-precision model with nothing but torch installed."""

from slmquant.engines.common.torch_sessions import TorchEngine

ENGINE = TorchEngine(
    title="torch eager, bfloat16",
    summary="full-precision models in 16 bits, as transformers runs them",
    dtype="bfloat16",
)
