"""Tokens without a row in the embedding: tokens added to a tokenizer without resizing the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slmquant.errors import ModelError

_REMEDY = "use the tokenizer that belongs to the model, or resize the embedding (resize_token_embeddings)"
_NAMED = 3


def beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[str, ...]:
    """Tokens whose ids have no row in the embedding, sorted by id."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return tuple(sorted((token for token, id_ in vocabulary.items() if id_ >= rows), key=vocabulary.__getitem__))


def used_by_template(tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[str, ...]:
    """Tokens without a row that the chat template writes."""
    template = getattr(tokenizer, "chat_template", None)
    texts = list(template.values()) if isinstance(template, dict) else [template or ""]
    return tuple(token for token in beyond(tokenizer, rows) if any(token in str(text) for text in texts))


def named(tokens: tuple[str, ...]) -> str:
    """`'<a>', '<b>' and 5 more`."""
    rest = len(tokens) - _NAMED
    return ", ".join(repr(token) for token in tokens[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def remarks_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """A remark if the tokenizer has tokens without a row in the embedding."""
    rows = _rows(model)
    if not (lost := beyond(tokenizer, rows)):
        return ()
    return (
        f"{len(lost)} tokens of the tokenizer have no row in the embedding of {rows} rows ({named(lost)}): "
        f"text with such a token is an error; {_REMEDY}",
    )


def refuse_beyond_(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the model raise ModelError for tokens without a row in the embedding, if the tokenizer has any.

    It is a hook on the embedding, so the error is raised in the forward pass.
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
                f"token {highest} ({token!r}) is in the text, but the embedding has only {rows} rows; {_REMEDY}"
            )

    model.get_input_embeddings().register_forward_pre_hook(check)


def _rows(model: PreTrainedModel) -> int:
    return int(model.get_input_embeddings().get_parameter("weight").shape[0])
