"""Models that answer what is said to them, word by word as they find it."""

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
    """How answers are written, the same for every speaker.

    Attributes:
        max_tokens: The longest answer.
        temperature: Of what is drawn; 0 is the likeliest token every time.
        seed: Of what is drawn; every answer starts from it again.
    """

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


@dataclass
class Speaker:
    """A model in a conversation.

    Attributes:
        label: What it is called.
        model: In evaluation mode.
        tokenizer: Its tokenizer. With a chat template, what was said before is remembered; without one, every text
            is continued as it stands.
    """

    label: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _said: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_chat(self) -> bool:
        """Whether its tokenizer knows how a conversation is written."""
        return self.tokenizer.chat_template is not None

    def forget(self) -> None:
        """Begin a new conversation."""
        self._said.clear()

    def check(self, text: str, manner: Manner) -> list[int]:
        """Token ids of the conversation with `text` at its end, for which there is room, and for the answer.

        Raises:
            RefusedError: Together they are longer than the model takes.
        """
        said = [*self._said, {"role": "user", "content": text}]
        ids = self._tokens(said) if self.is_chat else self.tokenizer.encode(text)
        longest = context_limit(self.model.config)
        if longest is not None and len(ids) + manner.max_tokens > longest:
            raise RefusedError(
                f"{len(ids)} tokens and {manner.max_tokens} of an answer are more than the {longest} that "
                f"{self.label} takes; begin anew with /new, say less, or lower --max-tokens"
            )
        return ids

    @torch.inference_mode()
    def answer(self, text: str, manner: Manner, write: Callable[[str], None]) -> str:
        """Answer `text`, or go on from it; `write` is given each piece as it is found.

        Raises:
            RefusedError: Question and answer together are longer than the model takes.
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
    """Hands on an answer's text in pieces that no later token changes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each piece."""
        del stream_end
        self._write(text)
