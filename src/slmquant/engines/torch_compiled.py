"""Torch compiled, in bfloat16: full precision at the best that torch's own compiler makes of it here.

Compiling is part of opening, since nothing can be computed before; on two cores it takes minutes. Keys and values lie
in a cache of fixed size, which is what lets one compiled graph serve every position.
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
"""Tokens fed in a row before anything is timed: a graph for one token, and one for any larger number."""


@dataclass(frozen=True)
class TorchCompiled(TorchEngine):
    """The engine; see `_torch.TorchEngine`."""

    def status(self) -> EngineStatus:
        """Usable where there is a C++ compiler."""
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *_COMPILERS) if name):
            return EngineStatus(False, reason="torch compiles through C++, and there is no g++ or clang++; install one")
        return super().status()

    def session(self, model: PreTrainedModel, context: int) -> TorchSession:
        """Compile."""
        return CompiledSession(model, context)


class CompiledSession(TorchSession):
    """One sequence in a compiled model.

    Args:
        model: In evaluation mode.
        context: Tokens that the sequence may hold.
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

        with torch.inference_mode():  # as its tensors were made
            self._cache.reset()
        self._length = 0


ENGINE = TorchCompiled(
    title="torch compiled, bfloat16",
    summary="full-precision models in 16 bits, through torch's own compiler",
    dtype="bfloat16",
)
