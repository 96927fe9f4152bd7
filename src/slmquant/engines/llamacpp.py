"""llama.cpp, through cyllama, whose wheels bind its C interface directly.

llama.cpp rounds activations itself: to 8 bits in blocks of 32 before products with integer codes, to float16 before
float16 weights; keys and values are cached in float16. Users of the file get the same, so these defaults are kept.

cyllama returns logits as Python lists, which takes about 1.5 ms per row of 49,152. Decoding steps avoid this, because
llama.cpp's own sampler chooses their tokens.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slmquant.engines.common import llama_server
from slmquant.engines.common.contract import EngineStatus, OpenOptions
from slmquant.errors import ModelError, UnavailableError

if TYPE_CHECKING:
    from cyllama.llama import llama_cpp

_EXTRA = "llamacpp"
_BATCH = 512
"""Tokens computed at once, as in llama.cpp's own programs."""
_LOG_LINES = 20
_MISSING = f"cyllama is not installed; pip install 'slmquant[{_EXTRA}]'"

_log: deque[str] = deque(maxlen=_LOG_LINES)


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp as an engine; see `engines.common.contract.Engine`."""

    title = "llama.cpp"
    summary = "C++ runtime of GGUF files with kernels for integer blocks; CPU first."
    formats: tuple[str, ...] = ("gguf",)
    extra: str | None = _EXTRA

    def status(self) -> EngineStatus:
        """Whether cyllama is installed and loads, its llama.cpp version, and the instruction sets it was built for."""
        if importlib.util.find_spec("cyllama") is None:
            return EngineStatus(False, reason=_MISSING)
        try:
            _bound()
            version, instructions = _version(), _instructions()
        except (ImportError, OSError) as error:
            return EngineStatus(
                False,
                reason=f"cyllama does not load ({error}); reinstall 'slmquant[{_EXTRA}]'",
            )
        return EngineStatus(True, version, instructions)

    def open(self, artifact: Path, options: OpenOptions) -> LlamaCppSession:
        """Load a GGUF file, mapped into memory.

        Raises:
            ModelError: llama.cpp cannot load the file; the message includes its last error output.
            UnavailableError: cyllama is not installed.
        """
        status = self.status()
        if not status.usable:
            raise UnavailableError(f"llama.cpp: {status.reason}")
        if not artifact.is_file():
            raise ModelError(f"{artifact} is not a file; expected a .gguf file")
        return LlamaCppSession(artifact, options)

    def server(self, artifact: Path, host: str, port: int, options: OpenOptions) -> tuple[str, ...]:
        """Command line of llama.cpp's own server, see `llama_server`."""
        return (sys.executable, *llama_server.command(artifact, host, port, options.context, options.threads))


class LlamaCppSession:
    """One model, one context, one sequence.

    Args:
        artifact: A GGUF file.
        options: Number of threads, and maximum length of the sequence.

    Raises:
        ModelError: llama.cpp cannot load the file, or lacks memory for the context.
    """

    def __init__(self, artifact: Path, options: OpenOptions) -> None:
        bound = _bound()
        _log.clear()
        try:
            self._model = _with_vocabulary(bound)(str(artifact), bound.LlamaModelParams())
            context = bound.LlamaContextParams()
            context.n_ctx = options.context
            context.n_batch = context.n_ubatch = _BATCH
            context.n_threads = context.n_threads_batch = options.threads
            self._context = bound.LlamaContext(self._model, context)
        except (ValueError, RuntimeError, MemoryError, OSError) as error:
            raise ModelError(f"llama.cpp cannot load {artifact.name}: {_last_words(error)}") from error
        self._greedy = bound.LlamaSampler(bound.LlamaSamplerChainParams())
        self._greedy.add_greedy()
        self._batch = bound.LlamaBatch(n_tokens=_BATCH, embd=0, n_seq_max=1)
        self._longest, self._length = options.context, 0
        self._vocab = int(self._model.n_vocab)

    @property
    def vocab(self) -> int:
        """Width of a row of logits."""
        return self._vocab

    def reset(self) -> None:
        """Forget the sequence."""
        self._context.kv_cache_clear()
        self._length = 0

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append `tokens` and compute, at most 512 at a time.

        Returns:
            `(len(tokens), vocab)` if `every`, else `(1, vocab)`.

        Raises:
            ValueError: There are no tokens, or more than the context holds.
            ModelError: llama.cpp failed.
        """
        logits = np.empty((len(tokens) if every else 1, self._vocab), np.float32)
        for start, places in self._run(tokens, every):
            for place in places:
                logits[start + place if every else 0] = self._context.get_logits_ith(place)
        return logits

    def choose(self, tokens: Sequence[int]) -> int:
        """Append `tokens` and return the most probable next one, from llama.cpp's own sampler. NaN is not detected.

        Raises:
            ValueError: There are no tokens, or more than the context holds.
            ModelError: llama.cpp failed.
        """
        for _ in self._run(tokens, every=False):
            pass
        return int(self._greedy.sample(self._context, -1))

    def _run(self, tokens: Sequence[int], every: bool) -> Iterator[tuple[int, range]]:
        """Compute piece by piece; yield the start of each piece, and its positions whose logits are available."""
        if not tokens or self._length + len(tokens) > self._longest:
            raise ValueError(f"{len(tokens)} tokens after {self._length} do not fit a context of {self._longest}")
        for start in range(0, len(tokens), _BATCH):
            piece = tokens[start : start + _BATCH]
            is_last = start + len(piece) == len(tokens)
            places = range(0 if every else len(piece) - 1 if is_last else len(piece), len(piece))
            self._decode(piece, places)
            yield start, places

    def _decode(self, piece: Sequence[int], places: range) -> None:
        self._batch.clear()
        for place, token in enumerate(piece):
            self._batch.add(int(token), self._length + place, [0], place in places)
        try:
            self._context.decode(self._batch)
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"llama.cpp failed on {len(piece)} tokens: {_last_words(error)}") from error
        self._length += len(piece)

    def close(self) -> None:
        """Free the memory."""
        self._greedy.close()
        self._batch.close()
        self._context.close()
        self._model.close()


def _bound() -> Any:
    """The bound C interface, with its log redirected to `_log`."""
    from cyllama.llama import llama_cpp

    llama_cpp.set_log_callback(_keep)
    return llama_cpp


def _keep(_level: int, text: str) -> None:
    """Store a log line of llama.cpp, which would otherwise go to stderr."""
    if text.strip(" .\n"):
        _log.append(text.strip())


def _last_words(error: BaseException) -> str:
    """llama.cpp's last error output; if there is none, the text of the exception."""
    words = ("error", "failed", "unknown", "invalid")
    complaints = [line for line in _log if any(word in line.lower() for word in words)]
    return "; ".join(complaints[:2]) or str(error) or type(error).__name__


def _with_vocabulary(bound: Any) -> type[llama_cpp.LlamaModel]:
    """A model class with the attribute `n_vocab`, which `get_logits_ith` reads and cyllama 0.2.18 lacks."""

    class Model(bound.LlamaModel):  # type: ignore[misc]  # cyllama has no annotations
        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    return Model


def _version() -> str:
    """`cyllama 0.2.18, llama.cpp b9190`."""
    from cyllama._internal import build_config

    build = build_config.get().get("versions", {}).get("llama_cpp_version")
    return f"cyllama {importlib.metadata.version('cyllama')}" + (f", llama.cpp {build}" if build else "")


def _instructions() -> tuple[str, ...]:
    """Instruction sets that ggml reports; cyllama exposes them only through its whisper.cpp binding."""
    from cyllama.whisper import whisper_cpp

    _, _, features = str(whisper_cpp.print_system_info()).partition("CPU :")
    pairs = (feature.partition("=") for feature in features.split("|"))
    return tuple(name.strip() for name, _, value in pairs if value.strip() == "1")


ENGINE = LlamaCpp()
