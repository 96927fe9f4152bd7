"""Tokens beyond the rows of an embedding: a tokenizer to which tokens were added, and a model that was not resized."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slmquant.errors import ModelError

_REMEDY = "take the tokenizer that belongs to the model, or resize the embedding (resize_token_embeddings)"
_NAMED = 3


def beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[str, ...]:
    """The tokens whose ids have no row, in the order of their ids."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return tuple(sorted((token for token, id_ in vocabulary.items() if id_ >= rows), key=vocabulary.__getitem__))


def used_by_template(tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[str, ...]:
    """Those of `beyond` that the chat template writes."""
    template = getattr(tokenizer, "chat_template", None)
    texts = list(template.values()) if isinstance(template, dict) else [template or ""]
    return tuple(token for token in beyond(tokenizer, rows) if any(token in str(text) for text in texts))


def named(tokens: tuple[str, ...]) -> str:
    """`'<a>', '<b>' and 5 more`."""
    rest = len(tokens) - _NAMED
    return ", ".join(repr(token) for token in tokens[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def remarks_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """A sentence where the tokenizer has tokens that the embedding has no row for; else nothing."""
    rows = _rows(model)
    if not (lost := beyond(tokenizer, rows)):
        return ()
    return (
        f"the tokenizer has {len(lost)} tokens that the embedding of {rows} rows has none for ({named(lost)}): "
        f"a text that uses one ends in an error; {_REMEDY}",
    )


def refuse_beyond_(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the embedding refuse, by name, a token that it has no row for; done where there is such a token at all.

    The model's forward then raises ModelError.
    """
    rows = _rows(model)
    if not beyond(tokenizer, rows):
        return

    def check(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return
        ids = arguments[0]
        if ids.numel() and (highest := int(ids.max())) >= rows:
            token = tokenizer.convert_ids_to_tokens(highest)
            raise ModelError(
                f"token {highest} ({token!r}) is in the text, and the embedding has {rows} rows; {_REMEDY}"
            )

    model.get_input_embeddings().register_forward_pre_hook(check)


def _rows(model: PreTrainedModel) -> int:
    return int(model.get_input_embeddings().get_parameter("weight").shape[0])
