"""Measures text that a model generates: repetition, and agreement with the full-precision model.

A loss averages over true text; a slightly damaged model can still fall into a loop as soon as it reads its own text.
So the model generates text greedily, without the penalties against repetition that its settings may request, as those
would hide what is measured.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from pydantic import TypeAdapter
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from slmquant.cache.entries import entry_path, get
from slmquant.cache.write import About, put
from slmquant.errors import CacheError
from slmquant.model.compatibility.context import context_limit
from slmquant.model.running.token_trees import Tokens
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec
from slmquant.tasks.common.contract import EvalContext, ReferenceKey, TaskResult
from slmquant.tasks.common.cuts import Cuts
from slmquant.tasks.common.order import items_asked
from slmquant.tasks.common.writing.generate import continue_greedily
from slmquant.tasks.common.writing.prompts import PROMPTS, Prompt
from slmquant.tasks.common.writing.repetition import ends_in_loop, longest_loop, repeated_ngrams
from slmquant.versions import METRICS

__all__ = ["NEW_TOKENS", "card", "measure", "prompt_tokens", "reference_path"]

METRIC_VERSION = METRICS["generation"]
"""Version of all figures here; raised when a definition changes."""

NEW_TOKENS = 96
"""Longest continuation, in tokens; half the model's context if that is shorter."""

_UNITS: Mapping[str, tuple[str, bool | None]] = {
    "repeated_4grams": ("ratio", False),
    "loop_tokens": ("tokens", False),
    "ends_in_loop": ("ratio", False),
    "ended": ("ratio", None),
    "common_prefix_tokens": ("tokens", True),
    "same_text": ("ratio", True),
}
"""Figure → its unit, and whether more is better."""


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Tokens:
    """Token ids of a prompt: a question in the chat template, if there is one; otherwise the plain text."""
    if prompt.is_question and tokenizer.chat_template is not None:
        messages = [{"role": "user", "content": prompt.text}]
        # Some templates write today's date into the prompt unless they are given one.
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False, date_string="1 January 2025"
        )
        return tuple(ids)
    text = f"Question: {prompt.text}\nAnswer:" if prompt.is_question else prompt.text
    return tuple(tokenizer.encode(text))


def reference_path(where: ReferenceKey, spec: TaskSpec) -> Path:
    """Cache entry of the full-precision model's continuations."""
    asked = _asked(where.config, where.tokenizer, spec)
    key = {
        "model": where.model_sha256,
        "prompts": [asked.tokens[name] for name in asked.tokens],
        "new_tokens": asked.new_tokens,
        "mode": where.mode.name,
        "device": where.device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "version": METRIC_VERSION,
    }
    return entry_path(where.cache_dir, "reference", key)


def measure(context: EvalContext, spec: TaskSpec) -> TaskResult:
    """Continue the first `spec.limit` prompts, each by up to 96 tokens; the texts are stored with the items.

    Figures per text, averaged over `n` texts, with the standard error of the mean:
        * `repeated_4grams`: share of its 4-grams that have occurred in it before;
        * `loop_tokens`: tokens of the longest stretch that repeats one piece at least three times in a row, else 0;
        * `ends_in_loop`: whether its last 16 tokens or more are such a stretch;
        * `ended`: whether the model ended the text by itself;
        * `common_prefix_tokens`: number of tokens before the first that differs from the full-precision model's text;
          `same_text`: whether none differs. The full-precision model itself has neither; its texts are cached for
          later cells.

    Raises:
        CacheError: The full-precision model's texts are not in the cache, or were damaged.
        NumericalError: A logit is not finite.
    """
    asked = _asked(context.model.config, context.tokenizer, spec)
    path = reference_path(context.reference_key, spec)
    reference = None if context.is_reference else _read(path, asked.tokens, context, spec)
    context.progress.start(f"{spec.name}: texts", len(asked.tokens))
    prompts = list(asked.tokens.values())
    written = continue_greedily(context, spec.name, prompts, asked.new_tokens, penalties=False)
    texts = dict(zip(asked.tokens, written, strict=True))
    if reference is None:
        about = About(context.reference_key.model_name, f"texts on {spec}")
        put(path, about, json.dumps(texts).encode())
    return TaskResult(
        metrics=tuple(_metrics(texts, reference, asked, spec)),
        data=(card(),),
        items=tuple(
            ItemOutcome(
                task=str(spec),
                item=name,
                values=_values(tokens, asked.new_tokens, None if reference is None else reference[name]),
                text=str(context.tokenizer.decode(tokens, skip_special_tokens=True)),
            )
            for name, tokens in texts.items()
        ),
        remarks=asked.remarks,
    )


@dataclass(frozen=True)
class _Asked:
    """Prompts' tokens by name, in the order of evaluation; the longest continuation; remarks about cuts."""

    tokens: dict[str, Tokens]
    new_tokens: int
    remarks: tuple[str, ...]


def _asked(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, spec: TaskSpec) -> _Asked:
    order = items_asked({spec.name: len(PROMPTS)}, spec)[: spec.limit]
    longest = context_limit(config)
    new_tokens = NEW_TOKENS if longest is None else min(NEW_TOKENS, longest // 2)
    room = None if longest is None else longest - new_tokens  # longer prompts are cut on the left
    whole = {prompt.name: prompt_tokens(tokenizer, prompt) for prompt in (PROMPTS[index] for _, index in order)}
    cuts = Cuts(spec.name, longest)
    for name, tokens in whole.items():
        cuts.asked(name, len(tokens), room)
    read = {name: tokens if room is None else tokens[-room:] for name, tokens in whole.items()}
    return _Asked(read, new_tokens, cuts.remarks)


def _values(tokens: Sequence[int], new_tokens: int, reference: Sequence[int] | None) -> dict[str, float]:
    values: dict[str, float] = {
        "loop_tokens": longest_loop(tokens),
        "ends_in_loop": float(ends_in_loop(tokens)),
        "ended": float(len(tokens) < new_tokens),
    }
    if (repeated := repeated_ngrams(tokens)) is not None:
        values["repeated_4grams"] = repeated
    if reference is not None:
        pairs = enumerate(zip(tokens, reference, strict=False))
        shorter = min(len(tokens), len(reference))
        values["common_prefix_tokens"] = next((at for at, (ours, theirs) in pairs if ours != theirs), shorter)
        values["same_text"] = float(list(tokens) == list(reference))
    return values


def _metrics(
    texts: Mapping[str, Sequence[int]], reference: Mapping[str, Sequence[int]] | None, asked: _Asked, spec: TaskSpec
) -> list[Metric]:
    values = [
        _values(tokens, asked.new_tokens, None if reference is None else reference[name])
        for name, tokens in texts.items()
    ]
    protocol = f"greedy, no penalties, up to {asked.new_tokens} new tokens, {len(texts)} of {len(PROMPTS)} prompts"
    figures = {name: [text[name] for text in values if name in text] for name in _UNITS}
    return [
        Metric(
            name=name,
            value=statistics.fmean(numbers),
            unit=unit,
            higher_is_better=higher_is_better,
            task=str(spec),
            n=len(numbers),
            stderr=statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else None,
            version=METRIC_VERSION,
            protocol=protocol,
        )
        for name, (unit, higher_is_better) in _UNITS.items()
        if (numbers := figures[name])
    ]


def card() -> DataCard:
    """Data card of the prompts."""
    rows = json.dumps([asdict(prompt) for prompt in PROMPTS], sort_keys=True)
    return DataCard(
        name="generation",
        split="prompts",
        rows=len(PROMPTS),
        sha256=hashlib.sha256(rows.encode()).hexdigest(),
        licence="Apache-2.0",
        source="slmquant",
    )


def _read(entry: Path, asked: Collection[str], context: EvalContext, spec: TaskSpec) -> dict[str, list[int]]:
    """The full-precision model's continuations of the prompts `asked`."""
    known = get(entry)
    if known is None:
        raise CacheError(
            f"{spec} compares with the full-precision model's texts, which are not in {context.cache_dir}; "
            f"measure the unquantized model on {spec} first"
        )
    texts = TypeAdapter(dict[str, list[int]]).validate_json(known)
    return {name: texts[name] for name in asked}
