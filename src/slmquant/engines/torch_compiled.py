"""Torch compiled, in bfloat16: full precision at the best speed of torch's own compiler.

Compiling is part of opening, since nothing can be computed before; on two cores it takes minutes. Keys and values are
in a cache of fixed size, so that one compiled graph works for every position.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slmquant.engines.common.contract import EngineStatus
from slmquant.engines.common.torch_sessions import TorchEngine, TorchSession

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_COMPILERS = ("g++", "clang++", "cl")
_WARM_UP = (1, 1, 8, 16)
"""Numbers of tokens fed before timing: they compile a graph for one token, and one for any larger number."""


@dataclass(frozen=True)
class TorchCompiled(TorchEngine):
    """Compiled torch as an engine; see `engines.common.torch_sessions.TorchEngine`."""

    def status(self) -> EngineStatus:
        """Usable if a C++ compiler is installed."""
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *_COMPILERS) if name):
            return EngineStatus(
                False, reason="torch needs a C++ compiler, and neither g++ nor clang++ was found; install one"
            )
        return super().status()

    def session(self, model: PreTrainedModel, context: int) -> TorchSession:
        """Compile the model for one sequence."""
        return CompiledSession(model, context)


class CompiledSession(TorchSession):
    """One sequence in a compiled model.

    Args:
        model: The model, in evaluation mode.
        context: Maximum length of the sequence, in tokens.
    """

    def __init__(self, model: PreTrainedModel, context: int) -> None:
        import torch
        from transformers import StaticCache

        super().__init__(model, context)
        self._cache = StaticCache(config=model.config, max_cache_len=context)
        self._forward = torch.compile(model.forward)
        for count in _WARM_UP:
            if self._length + count <= context:
                self.feed([0] * count)
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        import torch

        with torch.inference_mode():  # its tensors were created in inference mode
            self._cache.reset()
        self._length = 0


ENGINE = TorchCompiled(
    title="torch compiled, bfloat16",
    summary="full-precision models in 16 bits, through torch's own compiler",
    dtype="bfloat16",
)
