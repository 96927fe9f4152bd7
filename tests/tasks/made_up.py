"""Made-up text and questions, in the form of the local data folder."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

WORDS = (
    "river",
    "stone",
    "light",
    "walks",
    "under",
    "green",
    "the",
    "cold",
    "moon",
    "sings",
    "old",
    "birds",
    "of",
)


def words(draw: random.Random, low: int, high: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))


def sentences(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return "\n".join(f" {words(draw, 12, 12)} ." for _ in range(count)) + "\n"


def arc_rows(seed: int, count: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "id": str(index),
            "question": f"{words(draw, 3, 9)}?",
            "choices": {"text": [words(draw, 1, 5) for _ in range(4)], "label": ["A", "B", "C", "D"]},
            "answerKey": draw.choice("ABCD"),
        }
        for index in range(count)
    ]


def write_rows(folder: Path, task: str, split: str, rows: list[dict[str, Any]]) -> None:
    path = folder / "lm_eval" / task / f"{split}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def with_bos(tokenizer: PreTrainedTokenizerFast, every_window: bool = False) -> PreTrainedTokenizerFast:
    """The same tokenizer with a post-processor that puts BOS before a text, as those of Llama and Gemma have it.

    With `every_window` it is one of a model that needs BOS before every window, as Gemma's.
    """
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bos = str(tokenizer.bos_token)
    own.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, own.token_to_id(bos))])
    changed = PreTrainedTokenizerFast(tokenizer_object=own, bos_token=bos, eos_token=tokenizer.eos_token)
    if every_window:
        changed.add_special_tokens({"additional_special_tokens": ["<start_of_turn>"]})
    return changed
