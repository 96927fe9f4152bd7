"""A transformers model as an engine: what the others are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from slmquant.engines.common.contract import EngineStatus, OpenOptions
from slmquant.errors import RefusedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TorchEngine:
    """Torch in eager mode, with transformers' own key-value cache.

    Attributes:
        title: Its name.
        summary: What it is, in a line.
        dtype: What weights are held and products are computed in. In a slmquant folder the linears multiply in it, as
            they did when the model was evaluated; its weights are rounded numbers in float32.
    """

    title: str
    summary: str
    dtype: Literal["float32", "bfloat16"]
    formats: tuple[str, ...] = ("native",)
    extra: str | None = None

    def status(self) -> EngineStatus:
        """Torch is always here: slmquant needs it."""
        import torch

        flags = (torch.backends.cpu.get_cpu_capability(),)
        return EngineStatus(usable=True, version=f"torch {torch.__version__}", instructions=flags)

    def open(self, artifact: Path, options: OpenOptions) -> TorchSession:
        """Load a slmquant folder, a checkpoint of packed weights, or the full-precision model that `artifact` names.

        Raises:
            UnknownNameError, SourceError: It names nothing, or nothing that is here.
            ModelError: It is damaged, of a newer version, or no decoder-only model.
            RefusedError: The model keeps no key-value cache.
        """
        import torch

        from slmquant.formats import native
        from slmquant.formats.common import checkpoint_reader
        from slmquant.model.compatibility.cache_names import takes_cache
        from slmquant.model.sources import load

        torch.set_num_threads(options.threads)
        dtype: torch.dtype = getattr(torch, self.dtype)
        if native.is_native(artifact):
            model = native.load(artifact, dtype).quantized.model
        elif checkpoint_reader.checkpoint_of(artifact) is not None:
            model = checkpoint_reader.read_model(artifact, dtype)
        else:
            model = load.load(str(artifact), dtype).model
        if model._is_stateful or not takes_cache(model):
            raise RefusedError(
                f"{model.config.model_type} keeps no key-value cache; {self.title} feeds models that do, token by token"
            )
        return self.session(model, options.context)

    def session(self, model: PreTrainedModel, context: int) -> TorchSession:
        """One sequence in a loaded model."""
        return TorchSession(model, context)


class TorchSession:
    """One sequence in a transformers model.

    Args:
        model: In evaluation mode.
        context: Tokens that the sequence may hold.
    """

    def __init__(self, model: PreTrainedModel, context: int) -> None:
        self._model, self._context = model, context
        self._forward: Callable[..., Any] = model
        self._width: int = model.get_output_embeddings().weight.shape[0]
        self._cache: Any = None  # of whatever class the model makes
        self._length = 0

    @property
    def vocab(self) -> int:
        """Rows of the head."""
        return self._width

    def reset(self) -> None:
        """Forget the sequence."""
        self._cache, self._length = None, 0

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append tokens; see `engines.common.contract.Session.feed`.

        Raises:
            ValueError: No token, or more than the context holds.
        """
        import torch

        from slmquant.model.compatibility.cache_names import cache_argument, cache_of

        if not tokens:
            raise ValueError("feed at least one token")
        if self._length + len(tokens) > self._context:
            raise ValueError(f"{self._length} + {len(tokens)} tokens are more than the context of {self._context}")
        with torch.inference_mode():
            out = self._forward(
                input_ids=torch.tensor([list(tokens)]),
                use_cache=True,
                logits_to_keep=0 if every else 1,
                **cache_argument(self._model, self._cache),
            )
        self._cache = cache_of(out)
        self._length += len(tokens)
        logits: NDArray[np.float32] = out.logits[0].float().numpy()
        return logits

    def close(self) -> None:
        """Let go of the model."""
        del self._model, self._forward, self._cache
