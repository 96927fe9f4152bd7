"""Models in a conversation: each answers a text and streams its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from slmquant.errors import RefusedError
from slmquant.model.compatibility.context import context_limit
from slmquant.model.compatibility.quiet import quiet_transformers
from slmquant.tasks.common.writing.generate import FiniteOnly, greedy_config

__all__ = ["Manner", "Speaker"]


@dataclass(frozen=True)
class Manner:
    """Generation settings, the same for every speaker.

    Attributes:
        max_tokens: Longest answer, in tokens.
        temperature: Sampling temperature; 0 is greedy (the likeliest token every time).
        seed: Sampling seed; every answer starts from it again.
    """

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


@dataclass
class Speaker:
    """A model in a conversation.

    Attributes:
        label: Name printed above its answers.
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer. With a chat template the conversation is remembered; without one, every text is
            continued on its own.
    """

    label: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _said: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return self.tokenizer.chat_template is not None

    def forget(self) -> None:
        """Start a new conversation."""
        self._said.clear()

    def check(self, text: str, manner: Manner) -> list[int]:
        """Token ids of the conversation followed by `text`, after checking that the answer fits, too.

        Raises:
            RefusedError: Conversation and answer are longer than the model's context.
        """
        said = [*self._said, {"role": "user", "content": text}]
        ids = self._tokens(said) if self.is_chat else self.tokenizer.encode(text)
        longest = context_limit(self.model.config)
        if longest is not None and len(ids) + manner.max_tokens > longest:
            raise RefusedError(
                f"the conversation of {len(ids)} tokens and an answer of {manner.max_tokens} exceed the context of "
                f"{longest} tokens of {self.label}; start over with /new, write less, or lower --max-tokens"
            )
        return ids

    @torch.inference_mode()
    def answer(self, text: str, manner: Manner, write: Callable[[str], None]) -> str:
        """Answer `text`, or continue it; `write` receives each piece as it is generated.

        Raises:
            RefusedError: Conversation and answer are longer than the model's context.
            NumericalError: A logit is not finite.
        """
        ids = self.check(text, manner)
        config = greedy_config(self.model, self.tokenizer, manner.max_tokens)
        if manner.temperature:
            config.do_sample, config.temperature = True, manner.temperature
        torch.manual_seed(manner.seed)
        prompt = torch.tensor([ids], device=self.model.device)
        with quiet_transformers():
            out = self.model.generate(  # type: ignore[operator]  # transformers types it as a tensor
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=config,
                logits_processor=LogitsProcessorList([FiniteOnly(self.label)]),
                streamer=_Pieces(self.tokenizer, write),
            )
        answered = str(self.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
        self._said += [{"role": "user", "content": text}, {"role": "assistant", "content": answered}]
        return answered

    def _tokens(self, said: list[dict[str, str]]) -> list[int]:
        ids = self.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        return cast(list[int], ids)


class _Pieces(TextStreamer):
    """Streams an answer's text in pieces that later tokens do not change."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Receive one piece; called by transformers."""
        del stream_end
        self._write(text)
