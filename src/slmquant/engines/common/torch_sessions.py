"""A transformers model in torch as an engine: the reference for all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slmquant.engines.common.contract import EngineStatus, OpenOptions
from slmquant.errors import RefusedError
from slmquant.model.computing.modes import MODES
from slmquant.store.record import ComputeDtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NUDGE = 2.0**-12


@dataclass(frozen=True)
class TorchEngine:
    """Torch in eager mode, with transformers' own key-value cache.

    Attributes:
        title: Its name.
        summary: Its description, in one line.
        dtype: Dtype of weights and products. For a slmquant folder, linears multiply in it, as they did in the
            evaluation; the dequantized weights are held in float32.
    """

    title: str
    summary: str
    dtype: ComputeDtype
    formats: tuple[str, ...] = ("native",)
    extra: str | None = None

    def status(self) -> EngineStatus:
        """Always usable, since slmquant requires torch."""
        import torch

        flags = (torch.backends.cpu.get_cpu_capability(),)
        return EngineStatus(usable=True, version=f"torch {torch.__version__}", instructions=flags)

    def open(self, artifact: Path, options: OpenOptions) -> TorchSession:
        """Load a slmquant folder, a checkpoint of packed weights, or a full-precision model source.

        Raises:
            UnknownNameError, SourceError: `artifact` is unknown, or not on this machine.
            ModelError: The model is damaged, of a newer version, or not decoder-only.
            RefusedError: The model has no key-value cache.
        """
        import torch

        from slmquant.formats import native
        from slmquant.formats.common import checkpoint_reader
        from slmquant.model.compatibility.cache_names import takes_cache
        from slmquant.model.sources import load

        torch.set_num_threads(options.threads)
        dtype = MODES[self.dtype].linears
        if native.is_native(artifact):
            model = native.load(artifact, dtype).quantized.model
        elif checkpoint_reader.checkpoint_of(artifact) is not None:
            model = checkpoint_reader.read_model(artifact, dtype)
        else:
            model = load.load(str(artifact), dtype).model
        if model._is_stateful or not takes_cache(model):
            raise RefusedError(
                f"{model.config.model_type} keeps no key-value cache, which {self.title} needs to decode token by token"
            )
        return self.session(model, options.context)

    def session(self, model: PreTrainedModel, context: int) -> TorchSession:
        """A session with the loaded model."""
        return TorchSession(model, context)


class TorchSession:
    """One sequence in a transformers model.

    Args:
        model: The model, in evaluation mode.
        context: Maximum length of the sequence, in tokens.
    """

    def __init__(self, model: PreTrainedModel, context: int) -> None:
        self._model, self._context = model, context
        self._forward: Callable[..., Any] = model
        self._width: int = model.get_output_embeddings().weight.shape[0]
        self._cache: Any = None  # its class depends on the model
        self._length = 0

    @property
    def vocab(self) -> int:
        """Width of a row of logits: the rows of the head."""
        return self._width

    def reset(self) -> None:
        """Forget the sequence."""
        self._cache, self._length = None, 0

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append tokens; see `engines.common.contract.Session.feed`.

        Raises:
            ValueError: There are no tokens, or more than the context holds.
        """
        import torch

        from slmquant.model.compatibility.cache_names import cache_argument, cache_of

        if not tokens:
            raise ValueError("no tokens to feed; expected at least one")
        if self._length + len(tokens) > self._context:
            raise ValueError(f"{self._length} + {len(tokens)} tokens exceed the context of {self._context}")
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

    @property
    def rounds_activations(self) -> bool:
        """Whether a linear of the model rounds its inputs."""
        from slmquant.model.computing.activations import ActivationQuantizer

        return any(isinstance(module, ActivationQuantizer) for module in self._model.modules())

    @contextmanager
    def nudged(self) -> Iterator[None]:
        """Within this context each number of the embedding is off by about 2⁻¹², as float16 rounds it."""
        import torch

        weight = self._model.get_input_embeddings().get_parameter("weight")
        kept = weight.detach().clone()
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            weight.mul_(1 + _NUDGE * noise.to(weight))
        try:
            yield
        finally:
            weight.data.copy_(kept)

    def close(self) -> None:
        """Free the model."""
        del self._model, self._forward, self._cache
