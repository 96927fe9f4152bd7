"""What a model writes on its own: repetition, and how long it stays with the full-precision model.

A loss averages over true text; a model that is a little damaged can still fall into a loop as soon as it reads what
it wrote itself. So it writes: the likeliest token, again and again, without the penalties against repetition that a
model's settings may ask for, as those would hide what is looked for.
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
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from slmquant.boundary import guarded
from slmquant.errors import DataError
from slmquant.files import atomic_file
from slmquant.model.compatibility.context import context_limit
from slmquant.model.running.token_trees import Tokens
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec
from slmquant.tasks.common.contract import EvalContext, TaskResult
from slmquant.tasks.common.cuts import Cuts
from slmquant.tasks.common.order import items_asked
from slmquant.tasks.common.writing.generate import continue_greedily
from slmquant.tasks.common.writing.prompts import PROMPTS, Prompt
from slmquant.tasks.common.writing.repetition import ends_in_loop, longest_loop, repeated_ngrams
from slmquant.versions import METRICS

__all__ = ["NEW_TOKENS", "card", "measure", "prompt_tokens", "reference_path"]

METRIC_VERSION = METRICS["generation"]
"""Of all figures here; raised when their definition changes."""

NEW_TOKENS = 96
"""The longest continuation; half the context of a model that takes fewer than twice as many."""

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
    """Token ids of a prompt: a question as the chat template puts it, where there is one; else the text as it is."""
    if prompt.is_question and tokenizer.chat_template is not None:
        said = [{"role": "user", "content": prompt.text}]
        # Some templates write today's date into the prompt unless they are given one.
        ids = tokenizer.apply_chat_template(
            said, add_generation_prompt=True, return_dict=False, date_string="1 January 2025"
        )
        return tuple(ids)
    text = f"Question: {prompt.text}\nAnswer:" if prompt.is_question else prompt.text
    return tuple(tokenizer.encode(text))


def reference_path(context: EvalContext, spec: TaskSpec) -> Path:
    """Where the full-precision model's continuations are kept."""
    asked = _asked(context, spec)
    key = {
        "model": context.model_sha256,
        "prompts": [asked.tokens[name] for name in asked.tokens],
        "new_tokens": asked.new_tokens,
        "dtype": str(context.dtype),
        "device": context.device.type,
        "torch": torch.__version__,
        "version": METRIC_VERSION,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return context.cache_dir / "reference" / f"{digest}.json"


def measure(context: EvalContext, spec: TaskSpec) -> TaskResult:
    """Continue the first `spec.limit` prompts, each up to 96 tokens; the texts are kept with the items.

    Per text, with `n` texts and the standard error of the mean:
        * `repeated_4grams`: share of its 4-grams that have occurred in it before;
        * `loop_tokens`: tokens of its longest stretch that is one piece at least three times in a row, 0 without one;
        * `ends_in_loop`: whether its last 16 tokens or more are such a stretch;
        * `ended`: whether the model ended it by itself;
        * `common_prefix_tokens`: how many tokens it shares with the full-precision model's text before the first
          that differs; `same_text`: whether none does. Both not for the full-precision model itself, which leaves its
          texts for later cells.

    Raises:
        DataError: The full-precision model has not been measured on this yet.
        NumericalError: A logit is not finite.
    """
    asked, path = _asked(context, spec), reference_path(context, spec)
    if not context.is_reference and not path.exists():
        raise DataError(
            f"{spec} needs the full-precision model's texts to compare with, and they are not in "
            f"{context.cache_dir}; measure the unquantized model on {spec} first"
        )
    reference = None if context.is_reference else _read(path, asked.tokens)
    context.progress.start(f"{spec.name}: texts", len(asked.tokens))
    prompts = list(asked.tokens.values())
    written = continue_greedily(context, spec.name, prompts, asked.new_tokens, penalties=False)
    texts = dict(zip(asked.tokens, written, strict=True))
    if reference is None:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(texts), encoding="utf-8")
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
    """Prompt name → its tokens, in the order in which they are asked; the longest continuation; what was cut."""

    tokens: dict[str, Tokens]
    new_tokens: int
    remarks: tuple[str, ...]


def _asked(context: EvalContext, spec: TaskSpec) -> _Asked:
    order = items_asked({spec.name: len(PROMPTS)}, spec)[: spec.limit]
    longest = context_limit(context.model.config)
    new_tokens = NEW_TOKENS if longest is None else min(NEW_TOKENS, longest // 2)
    room = None if longest is None else longest - new_tokens  # what is too long is cut on its left
    whole = {prompt.name: prompt_tokens(context.tokenizer, prompt) for prompt in (PROMPTS[index] for _, index in order)}
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
    found = {name: [each[name] for each in values if name in each] for name in _UNITS}
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
        if (numbers := found[name])
    ]


def card() -> DataCard:
    """The prompts, as data."""
    rows = json.dumps([asdict(prompt) for prompt in PROMPTS], sort_keys=True)
    return DataCard(
        name="generation",
        split="prompts",
        rows=len(PROMPTS),
        sha256=hashlib.sha256(rows.encode()).hexdigest(),
        licence="Apache-2.0",
        source="slmquant",
    )


def _read(path: Path, asked: Collection[str]) -> dict[str, list[int]]:
    with guarded(
        lambda why: f"reference texts {path} cannot be read ({why}); delete the file and measure them again", DataError
    ):
        texts = TypeAdapter(dict[str, list[int]]).validate_json(path.read_bytes())
        return {name: texts[name] for name in asked}
