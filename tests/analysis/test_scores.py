"""The paper's scores, by hand; and which cells they are taken against."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmquant.analysis.score_table import CellScores, infer_score, score_table
from slmquant.analysis.scores import (
    DEFAULT_OPTIONS,
    ScoreOptions,
    slmq_cons,
    slmq_infer,
    slmq_perf,
)
from slmquant.store.record import Metric, Record
from tests import invented


def test_parity_is_100_by_every_mean() -> None:
    score = slmq_perf({"a": [1.0, 1.0], "b": [1.0, 1.0]})

    assert (score.value, score.harmonic_mean, score.minimum) == (100, 100, 100)


def test_perf_of_two_data_sets_by_hand() -> None:
    # sqrt((0.8² + 0.6²) / 2) = sqrt(0.5); 2 / (1/0.8 + 1/0.6) = 0.685714...
    score = slmq_perf({"arc_easy": [0.8], "hellaswag": [0.6]})

    assert score.value == pytest.approx(70.710678, abs=1e-6)
    assert score.harmonic_mean == pytest.approx(68.571429, abs=1e-6)
    assert score.minimum == pytest.approx(60)


def test_the_two_orders_of_mean_and_square_differ_over_models() -> None:
    # Two models, ratios 1.0 and 0.5: E(x)² = 0.5625, E(x²) = 0.625.
    ratios = {"arc_easy": [1.0, 0.5]}

    assert slmq_perf(ratios).value == pytest.approx(75.0)
    assert slmq_perf(ratios, "square_then_mean").value == pytest.approx(79.056942, abs=1e-6)


def test_infer_by_hand_and_above_100() -> None:
    # Half the memory, 1.5 times the speed, a quarter of the size: sqrt((4 + 2.25 + 16) / 3).
    score = slmq_infer(memory=[2.0], tokens_per_s=[1.5], size=[4.0])

    assert score.value == pytest.approx(272.335577, abs=1e-6)
    assert score.harmonic_mean == pytest.approx(100 * 3 / (1 / 2 + 1 / 1.5 + 1 / 4))
    assert score.minimum == pytest.approx(150)


def test_cons_by_hand() -> None:
    # Ten times the time, twice the memory: sqrt((0.01 + 0.25) / 2).
    score = slmq_cons(time=[0.1], memory=[0.5])

    assert score.value == pytest.approx(36.055513, abs=1e-6)
    assert dict(score.ratios) == {"time": 0.1, "memory": 0.5}


def test_a_ratio_of_zero_makes_the_harmonic_mean_zero() -> None:
    score = slmq_perf({"a": [0.0], "b": [1.0]})

    assert score.harmonic_mean == score.minimum == 0
    assert score.value == pytest.approx(70.710678, abs=1e-6)


@pytest.mark.parametrize("ratios", [{}, {"a": []}, {"a": [-0.1]}, {"a": [float("nan")]}, {"a": [float("inf")]}])
def test_what_is_no_ratio_is_refused(ratios: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError):
        slmq_perf(ratios)


def cell(method: str, ppl: float, arc: float, hella: float, seconds: float = 2, mb: float = 800) -> Record:
    scheme = "W16A16" if method == "none" else "W8A8"
    return invented.ok(method, scheme, 100, ppl, None if method == "none" else 0.1, arc, hella, seconds, mb)


def scores_of(record: Record, *others: Record, options: ScoreOptions = DEFAULT_OPTIONS) -> CellScores:
    return score_table([record, *others], options)[0]


FULL = cell("none", 20.0, 0.50, 0.45)


def test_a_cell_is_scored_against_full_precision() -> None:
    # 0.4 / 0.5, 0.36 / 0.45 and 20 / 25 are all 0.8; above chance 0.15 / 0.25 and 0.11 / 0.2, and no perplexity.
    scores = scores_of(cell("gptq", 25.0, 0.40, 0.36), FULL)

    assert scores.perf.value == pytest.approx(80)
    assert scores.perf_above_chance.value == pytest.approx(100 * ((0.6**2 + 0.55**2) / 2) ** 0.5)


def test_perplexity_can_be_left_out() -> None:
    scores = scores_of(cell("gptq", 2000.0, 0.40, 0.36), FULL, options=ScoreOptions(perplexity=False))

    assert scores.perf.value == pytest.approx(80)
    assert list(scores.perf.ratios) == [invented.ARC, invented.HELLASWAG]


def test_guessing_still_scores_well_until_chance_is_taken_off() -> None:
    scores = scores_of(cell("rtn", 20.0, 0.25, 0.25), FULL, options=ScoreOptions(perplexity=False))

    assert scores.perf.value is not None and scores.perf.value > 50
    assert scores.perf_above_chance.value == 0


def test_below_chance_counts_with_its_sign() -> None:
    """A clamp at 0 would make of noise around chance a score above 0."""
    scores = scores_of(cell("rtn", 20.0, 0.10, 0.25), FULL, options=ScoreOptions(perplexity=False))

    assert scores.perf_above_chance.value == pytest.approx(-100 * (0.6**2 / 2) ** 0.5)
    assert scores.perf_above_chance.minimum == pytest.approx(-60)


def test_a_task_at_chance_in_full_precision_leaves_no_score_and_is_named() -> None:
    """Which tasks count must not depend on how many items were asked."""
    near_chance = cell("none", 20.0, 0.50, 0.27)
    scores = scores_of(cell("gptq", 20.0, 0.50, 0.40), near_chance)

    assert scores.perf_above_chance.value is None
    assert f"not significantly above chance on {invented.HELLASWAG}" in (scores.perf_above_chance.reason or "")


def test_without_a_reference_there_is_no_score_but_a_reason() -> None:
    scores = scores_of(cell("gptq", 25.0, 0.40, 0.36))

    assert scores.perf.value is None and "no full-precision cell" in (scores.perf.reason or "")
    assert scores.cons.value is None and "no rtn cell" in (scores.cons.reason or "")


@pytest.mark.parametrize(
    "change", [{"model_sha256": "00" * 32}, {"compute_dtype": "float32"}, {"device": "cuda"}, {"tasks": ()}]
)
def test_a_reference_under_other_conditions_does_not_count(change: dict[str, object]) -> None:
    other = FULL.model_copy(update={"spec": FULL.spec.model_copy(update=change)})

    assert scores_of(cell("gptq", 25.0, 0.40, 0.36), other).perf.value is None


def test_a_missing_metric_makes_no_score() -> None:
    record = cell("gptq", 25.0, 0.40, 0.36)
    record = record.model_copy(update={"metrics": tuple(m for m in record.metrics if m.task != invented.ARC)})
    scores = scores_of(record, FULL)

    assert scores.perf.value is None and scores.perf.reason == f"no accuracy on {invented.ARC}"


def test_perplexities_of_different_protocols_make_no_score() -> None:
    record = cell("gptq", 25.0, 0.40, 0.36)
    metrics = tuple(
        m.model_copy(update={"protocol": "with BOS"}) if m.name == "perplexity" else m for m in record.metrics
    )
    scores = scores_of(record.model_copy(update={"metrics": metrics}), FULL)

    assert scores.perf.value is None and "protocols" in (scores.perf.reason or "")


def test_consumption_is_relative_to_rtn_on_the_same_machine() -> None:
    rtn, gptq = cell("rtn", 21, 0.5, 0.4, seconds=2, mb=800), cell("gptq", 21, 0.5, 0.4, seconds=20, mb=1600)
    elsewhere = rtn.model_copy(update={"environment": rtn.environment.model_copy(update={"threads": 64})})

    assert scores_of(gptq, rtn).cons.value == pytest.approx(100 * ((0.1**2 + 0.5**2) / 2) ** 0.5)
    assert scores_of(rtn).cons.value == 100
    assert scores_of(gptq, elsewhere).cons.value is None


def test_the_consumption_reference_can_be_another_method() -> None:
    gptq = cell("gptq", 21, 0.5, 0.4, seconds=20, mb=1600)
    options = replace(DEFAULT_OPTIONS, consumption_reference="gptq")

    assert scores_of(gptq, options=options).cons.value == 100


def test_a_cell_that_was_not_measured_has_no_scores() -> None:
    scores = scores_of(invented.record("rtn", "W3A16g64", status="out_of_memory", reason="killed"), FULL)

    assert {scores.perf.value, scores.perf_above_chance.value, scores.cons.value} == {None}
    assert scores.perf.reason == "the cell is out of memory"


def engine_metrics(peak_mb: float, speed: float, size_mb: float, engine: str = "llamacpp (1)") -> tuple[Metric, ...]:
    def metric(name: str, value: float, higher: bool, protocol: str) -> Metric:
        return Metric(name=name, value=value, unit="1", higher_is_better=higher, protocol=protocol)

    return (
        metric("inference_added_rss_bytes", peak_mb * 1e6, False, engine),
        metric("decode_tokens_per_s@512", speed, True, f"{engine}; 32 greedy tokens after 512, one by one"),
        metric("artifact_bytes", size_mb * 1e6, False, "all files"),
    )


def on_engine(method: str, metrics: tuple[Metric, ...]) -> Record:
    plain = cell(method, 20, 0.5, 0.4)
    return plain.model_copy(update={"metrics": (*plain.metrics, *metrics)})


def test_infer_is_taken_against_full_precision_on_the_same_engine() -> None:
    full = on_engine("none", engine_metrics(600, 20, 270))
    mine = on_engine("gptq", engine_metrics(300, 50, 90))

    score = scores_of(mine, full).infer

    assert score.value == pytest.approx(100 * ((2**2 + 2.5**2 + 3**2) / 3) ** 0.5)
    assert score.reason is not None and "llamacpp (1)" in score.reason and full.spec.label in score.reason
    assert scores_of(full).infer.value == pytest.approx(100)


def test_infer_prefers_ratios_that_were_paired() -> None:
    full = on_engine("none", engine_metrics(600, 20, 270))
    mine = on_engine("gptq", engine_metrics(300, 50, 90))

    def with_speedup(against: str) -> Record:
        paired = Metric(
            name="decode_speedup@512",
            value=3.0,
            unit="ratio",
            higher_is_better=True,
            protocol=f"x; against {against}, y",
        )
        return mine.model_copy(update={"metrics": (*mine.metrics, paired)})

    ratios = [scores_of(with_speedup(name), full).infer.ratios for name in (full.spec.label, "something else")]
    assert [each["tokens per second"] for each in ratios] == [3.0, 2.5]


def test_infer_without_an_engine_or_a_baseline_is_absent_with_a_reason() -> None:
    full = on_engine("none", engine_metrics(600, 20, 270))
    mine = on_engine("gptq", engine_metrics(300, 50, 90))
    elsewhere = on_engine("gptq", engine_metrics(300, 50, 90, engine="onnxruntime (2)"))
    untimed = on_engine("gptq", engine_metrics(300, 50, 90)[:1])

    found = [
        scores_of(cell("gptq", 20, 0.5, 0.4), full).infer,
        scores_of(mine).infer,
        scores_of(elsewhere, full).infer,
        scores_of(untimed, full).infer,
    ]
    assert [score.value for score in found] == [None] * 4
    assert [(score.reason or "")[:24] for score in found] == [
        "not measured on an engine"[:24],
        "no full-precision cell o",
        "no full-precision cell o",
        "decode_tokens_per_s@512 ",
    ]


def test_a_model_of_little_context_is_scored_at_what_it_takes() -> None:
    def measured(memory: float, speed: float, size: float) -> list[Metric]:
        named = (
            ("inference_added_rss_bytes", memory),
            ("decode_tokens_per_s@0", 10 * speed),
            ("decode_tokens_per_s@192", speed),
            ("decode_tokens_per_s@1024", 7 * speed),
            ("artifact_bytes", size),
        )
        return [invented.metric(name, value) for name, value in named]

    score = infer_score(measured(1e8, 30.0, 1e8), measured(2e8, 20.0, 4e8), "full")

    assert score.ratios == {"memory": 2.0, "tokens per second": 1.5, "size": 4.0}


def test_one_thread_is_scored_against_one_thread() -> None:
    def measured(memory: float, speed: float, size: float) -> list[Metric]:
        named = (
            ("inference_added_rss_bytes/1t", memory),
            ("decode_tokens_per_s@512/1t", speed),
            ("artifact_bytes", size),
        )
        return [invented.metric(name, value) for name, value in named]

    score = infer_score(measured(1e8, 30.0, 1e8), measured(2e8, 20.0, 4e8), "full")

    assert score.ratios == {"memory": 2.0, "tokens per second": 1.5, "size": 4.0}
