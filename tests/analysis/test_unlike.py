"""Two cells that were not run alike are compared with a word on it."""

from __future__ import annotations

from typing import Any

import pytest

from slmquant.analysis.compare import compare
from slmquant.analysis.unlike import unlike, unlike_words
from slmquant.store.record import Record
from tests import invented

A, B = (cell for cell in invented.benchmark() if cell.spec.label in ("invented-135m/rtn/W4A16g64",
                                                                     "invented-135m/gptq/W4A16g64"))  # fmt: skip


def changed(of: str, name: str, value: Any) -> Record:
    """B with one thing changed in its spec or environment."""
    part = getattr(B, of)
    return B.model_copy(update={of: part.model_copy(update={name: value})})


def test_cells_that_were_run_alike_get_no_remark() -> None:
    assert unlike(A, B) == {} and unlike_words(A, B) is None


def test_other_dtypes_are_in_the_answers_and_in_the_costs() -> None:
    assert unlike_words(A, changed("spec", "compute_dtype", "float32")) == (
        "A and B differ in compute dtype (bfloat16 and float32): differences in accuracy, loss and divergence, and in "
        "seconds, memory and speeds, are partly due to the compute dtype."
    )


def test_other_devices_are_in_the_answers_and_costs_are_not_compared() -> None:
    other = changed("spec", "device", "cuda")

    assert unlike_words(A, other) == (
        "A and B differ in device (cpu and cuda): differences in accuracy, loss and divergence are partly due to the "
        "device; seconds, memory and speeds are not compared."
    )
    assert {one.name for one in compare(A, other) if one.reason == "different devices"} >= {
        "quantize_cpu_s", "quantize_added_rss_bytes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("threads", 1, "threads (2 and 1)"), ("cpu", "Other", "CPU (Invented CPU 9000 and Other)"),
     ("gpu", "Card", "graphics card (none and Card)")],
)  # fmt: skip
def test_other_machines_have_other_costs_and_the_same_answers(name: str, value: Any, said: str) -> None:
    other = changed("environment", name, value)

    assert unlike_words(A, other) == (
        f"A and B differ in {said}: seconds, memory and speeds are not compared; accuracies, losses, divergences and "
        "sizes are."
    )
    costs = [one for one in compare(A, other) if one.name in ("quantize_s", "quantize_cpu_s")]
    assert [one.reason for one in costs] == ["different machines"] * 2
    answers = [one for one in compare(A, other) if one.name in ("perplexity", "acc_norm", "stored_bytes")]
    assert len(answers) == 4 and all(one.difference is not None for one in answers)


def test_an_engine_is_compared_with_itself_alone() -> None:
    said = unlike_words(A, changed("spec", "engine", "llamacpp"))

    assert said is not None and said.startswith("A and B differ in engine (torch and llamacpp): seconds, memory and")
    assert "other metrics measured on an engine are not compared either; sizes are." in said
