"""Torch in bfloat16: what a full-precision model takes where nothing was installed but torch."""

from slmquant.engines.common.torch_sessions import TorchEngine

ENGINE = TorchEngine(
    title="torch eager, bfloat16",
    summary="full-precision models in 16 bits, as transformers runs them",
    dtype="bfloat16",
)
