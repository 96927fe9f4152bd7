"""Scores over several models: the mean over models is where the paper's E stands."""

from __future__ import annotations

import math

import pytest

from slmquant.analysis.over_models import scores_over_models
from slmquant.analysis.score_table import score_table
from slmquant.analysis.scores import ScoreOptions
from slmquant.report._tables import over_models
from slmquant.store.record import Record
from tests import invented


def another(record: Record, factor: float) -> Record:
    """The same cell of another model, on which accuracies of quantized cells are `factor` times as high."""
    quantized = record.spec.method != "none"
    metrics = tuple(
        m.model_copy(update={"value": m.value * factor}) if quantized and m.name == "acc_norm" else m
        for m in record.metrics
    )
    spec = record.spec.model_copy(update={"model": "invented-360m", "model_sha256": "cd" * 32})
    return record.model_copy(update={"spec": spec, "metrics": metrics})


FIRST = [record for record in invented.benchmark() if record.status == "ok"]
BOTH = [*FIRST, *(another(record, 0.5) for record in FIRST)]


@pytest.mark.parametrize("expectation", ["mean_then_square", "square_then_mean"])
def test_ratios_of_all_models_enter_term_by_term(expectation: str) -> None:
    options = ScoreOptions(expectation=expectation)  # type: ignore[arg-type]  # one of the two
    found = next(
        one for one in scores_over_models(BOTH, options) if one.spec.method == "gptq" and one.spec.scheme == "W4A16g64"
    )
    of_cells = {score.cell_id: score.perf for score in score_table(BOTH, options)}
    pair = [of_cells[r.cell_id].ratios for r in BOTH if (r.spec.method, r.spec.scheme) == ("gptq", "W4A16g64")]
    terms = [[ratios[name] for ratios in pair] for name in pair[0]]
    squares = [
        (sum(term) / 2) ** 2 if expectation == "mean_then_square" else sum(x * x for x in term) / 2 for term in terms
    ]

    assert found.models == ("invented-135m", "invented-360m")
    assert found.perf.value == pytest.approx(100 * math.sqrt(sum(squares) / len(squares)))


def test_the_order_of_mean_and_square_shows_where_models_differ() -> None:
    def values(order: str) -> list[float | None]:
        options = ScoreOptions(expectation=order)  # type: ignore[arg-type]  # one of the two
        return [one.perf.value for one in scores_over_models(BOTH, options) if one.spec.method == "rtn"]

    pairs = zip(values("mean_then_square"), values("square_then_mean"), strict=True)

    assert all(a is not None and b is not None and a < b for a, b in pairs)


def test_one_model_is_not_several_and_what_is_missing_is_said() -> None:
    assert scores_over_models(FIRST) == []
    assert over_models(FIRST, ScoreOptions()) is None
    without = [record for record in BOTH if (record.spec.model, record.spec.method) != ("invented-360m", "none")]
    found = scores_over_models(without)[0]

    assert found.perf.value is None
    assert found.perf.reason == "invented-360m: no full-precision cell of the same model, tasks, dtype and device"


def test_the_table_has_a_row_for_each_method_and_scheme() -> None:
    table = over_models(BOTH, ScoreOptions())

    assert table is not None and len(table.rows) == len(FIRST) - 1  # full precision is what scores are against
    assert table.rows[0][2] == "2" and len({len(row) for row in table.rows} | {len(table.heads)}) == 1


def test_what_was_measured_otherwise_is_not_mixed_and_is_named() -> None:
    fast = [r.model_copy(update={"spec": r.spec.model_copy(update={"budget": "fast"})}) for r in BOTH]
    table = over_models([*BOTH, *fast], ScoreOptions())

    assert table is not None
    names = [row[0] for row in table.rows if row[:2] == ("gptq", "W4A16g64") or row[0].startswith("gptq (")]
    assert "gptq (fast budget)" in names and "gptq" in names
