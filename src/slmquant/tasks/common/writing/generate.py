"""Greedy generation, for tasks whose answers are free text.

transformers' own `generate` decodes. This module adds: prompts of similar length share a batch with a bounded number
of tokens, the common beginning of all prompts (the examples before every question) is computed once, and a row ends at
its first stop string or end of text.

Prompts, stop strings and lengths are treated as in lm-eval's own `hf` backend, so the answers are the same.

Deviations from that backend:
    * A row's answer never depends on its batch: it ends where it would have ended alone. In lm-eval a row continues as
      long as any row of its batch, which is visible if a stop string is a special token and vanishes from the text.
    * Sampled answers are refused: a difference between two models could be one between two random draws.
    * If a cache is rounded in groups of tokens (KIVI), the groups depend on padding and on the shared beginning, as in
      any batched decoding.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from slmquant.errors import NumericalError, RefusedError
from slmquant.model.compatibility.quiet import quiet_transformers
from slmquant.model.running.token_trees import Tokens
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.cuts import Cuts, item_of
from slmquant.tasks.common.writing.prefix import SharedPrefix, common_prefix

__all__ = ["FiniteOnly", "answer", "continue_greedily", "end_tokens", "greedy_config"]

_BATCH_TOKENS = 8192
"""Tokens whose keys and values are held at a time, including padding and tokens still to be generated."""
_DEFAULT_NEW_TOKENS = 256  # lm-eval's default


def answer(
    context: EvalContext,
    name: str,
    requests: Sequence[Instance],
    encode: Callable[[str], list[int]],
    max_length: int,
    cuts: Cuts | None = None,
) -> list[str]:
    """One text per request of lm-eval's kind `generate_until`, cut before its first stop string.

    Args:
        context: The model and its tokenizer.
        name: The task's name, for progress and errors.
        requests: Each with `args = (prompt, options)`; of the options, `until` and the longest answer are used.
        encode: Converts a prompt to token ids.
        max_length: The model's context, answer included; longer prompts are cut on the left.
        cuts: Records cut prompts.

    Raises:
        RefusedError: The task samples its answers, or its answers do not fit into the model's context.
        NumericalError: A logit is not finite.
    """
    tokenizer = context.tokenizer
    eos = None if tokenizer.eos_token_id is None else str(tokenizer.decode(tokenizer.eos_token_id))
    alike: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        alike.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(index)
    answers = [""] * len(requests)
    context.progress.start(f"{name}: answers", len(requests))
    for indices in alike.values():
        options = normalize_gen_kwargs(requests[indices[0]].args[1], _DEFAULT_NEW_TOKENS)
        if options.get("do_sample") or options.get("temperature"):
            raise RefusedError(f"task {name!r} samples its answers; only greedy ones are measured, name another task")
        new_tokens = int(options["max_gen_toks"])
        if new_tokens >= max_length:
            raise RefusedError(
                f"task {name!r} needs answers of {new_tokens} tokens, but the model's context is {max_length} "
                "tokens, question included; use a model with a longer context"
            )
        terms = [term for term in handle_stop_sequences(options.get("until"), eos) if term]
        room = max_length - new_tokens
        prompts = []
        for index in indices:
            ids = encode(requests[index].args[0])
            if cuts is not None:
                cuts.asked(item_of(requests[index]), len(ids), room)
            prompts.append(tuple(ids[-room:]))
        written = continue_greedily(context, name, prompts, new_tokens, terms)
        for index, tokens in zip(indices, written, strict=True):
            text = str(tokenizer.decode(tokens, skip_special_tokens=True))
            for term in terms:
                text = text.split(term)[0]
            answers[index] = text
    return answers


@torch.inference_mode()
def continue_greedily(
    context: EvalContext,
    name: str,
    prompts: Sequence[Tokens],
    new_tokens: int,
    terms: Sequence[str] = (),
    penalties: bool = True,
) -> list[list[int]]:
    """Continue each prompt greedily, with the likeliest token at every step.

    Args:
        context: The model and its tokenizer; its progress is advanced by one per prompt.
        name: Name of the task, for errors.
        prompts: Token ids, at least one each.
        new_tokens: The longest continuation.
        terms: Strings that end a continuation; a written one stays in it.
        penalties: Whether to apply the repetition penalties of the model's own settings, as lm-eval does.

    Returns:
        New token ids per prompt, without the end-of-text token: fewer than `new_tokens` if the text ended.

    Raises:
        NumericalError: A logit is not finite.
    """
    config = greedy_config(context.model, context.tokenizer, new_tokens, penalties)
    ends = end_tokens(context.model, context.tokenizer)
    prefix = SharedPrefix(context.model, common_prefix(prompts))
    written: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for batch in _batches(order, prompts, new_tokens):
        rows = [prompts[index] for index in batch]
        width = len(rows[0])  # the longest
        ids = torch.full((len(rows), width), cast(int, config.pad_token_id), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        stop = _Stop(context.tokenizer, terms, width)
        with quiet_transformers():
            out = context.model.generate(  # type: ignore[operator]  # transformers types it as a tensor
                input_ids=ids.to(context.device),
                attention_mask=mask.to(context.device),
                **prefix.argument([width - len(tokens) for tokens in rows]),
                generation_config=config,
                logits_processor=LogitsProcessorList([FiniteOnly(name)]),
                stopping_criteria=StoppingCriteriaList([stop] if terms else []),
            )
        for row, index in enumerate(batch):
            tokens = out[row, width:].tolist()[: stop.lengths.get(row)]
            written[index] = tokens[: next((at for at, token in enumerate(tokens) if token in ends), None)]
        context.progress.advance(len(batch))
    return [written[index] for index in range(len(prompts))]


def greedy_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new_tokens: int, penalties: bool = True
) -> GenerationConfig:
    """The model's own generation settings with greedy decoding of `new_tokens` at most; see `continue_greedily`."""
    config = copy.deepcopy(model.generation_config)
    ends = end_tokens(model, tokenizer)
    config.do_sample = False
    config.temperature = config.top_p = config.top_k = None
    config.max_length, config.max_new_tokens = None, new_tokens
    if not penalties:
        config.repetition_penalty, config.no_repeat_ngram_size = 1.0, 0
    config.eos_token_id = ends or None
    config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    return config


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All end-of-text tokens of the model's generation settings and its tokenizer."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return sorted({int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None})


class FiniteOnly(LogitsProcessor):
    """Passes logits unchanged, and raises an error if a row's largest is not finite.

    Args:
        name: Name of the task or model, for the error.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Check `(rows, vocab)` scores.

        Raises:
            NumericalError: The largest logit of a row is NaN or infinite.
        """
        bad = int((~torch.isfinite(scores.amax(dim=-1))).sum())
        if bad:
            raise NumericalError(
                f"the logits of {bad} of {len(scores)} texts of {self._name!r} are not finite after "
                f"{input_ids.shape[1]} tokens; the quantized model overflows: use more bits, smaller groups, or "
                "evaluate in float32"
            )
        return scores


class _Stop(StoppingCriteria):
    """Ends a row at its first stop string.

    Attributes:
        lengths: Row → number of its new tokens when it ended.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, terms: Sequence[str], start: int) -> None:
        self._tokenizer, self._terms, self._start = tokenizer, terms, start
        # A stop string may be written in other tokens than its own encoding; lm-eval, too, looks two tokens further.
        encoded = [tokenizer.encode(term, add_special_tokens=False) for term in terms]
        self._look_back = max((len(ids) for ids in encoded), default=0) + 2
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        """Which rows have ended, `(rows,)`."""
        del scores
        new = input_ids[:, self._start :]
        for row, tail in enumerate(self._tokenizer.batch_decode(new[:, -self._look_back :])):
            if row not in self.lengths and self._ends(tail) and self._ends(self._tokenizer.decode(new[row])):
                self.lengths[row] = new.shape[1]
        return torch.tensor([row in self.lengths for row in range(len(new))], device=input_ids.device)

    def _ends(self, text: str | list[str]) -> bool:
        return any(term in text for term in self._terms)


def _batches(order: Iterable[int], prompts: Sequence[Tokens], new_tokens: int) -> list[list[int]]:
    """Batches of consecutive prompts, longest first, with rows × (longest + new) bounded (or a single row)."""
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * (len(prompts[batches[-1][0]]) + new_tokens) <= _BATCH_TOKENS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
