"""Two cells are called different only where noise alone would hardly do it."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from slmquant.analysis.compare import compare, corrected
from slmquant.analysis.difference import NOT_KEPT, UNPAIRED, Difference, difference
from slmquant.analysis.endpoints import Margins
from slmquant.analysis.matched import MatchedShares
from slmquant.analysis.multiple import holm
from slmquant.analysis.paired import Flips, flips
from slmquant.analysis.sequential import evidence
from slmquant.store.record import ItemOutcome, Metric, Record, TaskSpec
from tests import invented
from tests.narrowed import present


def of(differences: list[Difference], name: str, task: str | None = None) -> Difference:
    return next(d for d in differences if (d.name, d.task) == (name, task))


def cells() -> tuple[Record, Record, Record]:
    records = {(r.spec.method, r.spec.scheme): r for r in invented.benchmark()}
    return records["rtn", "W4A8"], records["gptq", "W4A8"], records["gptq", "W4A16g64"]


def test_accuracies_are_compared_in_pairs_where_answers_were_kept() -> None:
    bad, fair, good = cells()
    clear = of(compare(bad, good, invented.items(bad), invented.items(good)), "acc_norm", invented.ARC)
    unclear = of(compare(fair, good, invented.items(fair), invented.items(good)), "acc_norm", invented.HELLASWAG)

    assert (clear.verdict, clear.pairs) == ("better", 100)
    assert clear.difference == pytest.approx(0.16)
    assert clear.p_value == pytest.approx(0.5**16)
    assert unclear.p_value == pytest.approx(0.5**5)
    assert unclear.verdict == "better"  # among four endpoints of which the others are clear
    assert unclear.smallest_seen is not None and 0.1 < unclear.smallest_seen < 0.2  # 0.05 was good luck


def test_without_kept_answers_the_comparison_is_pessimistic_and_says_so() -> None:
    bad, _, good = cells()
    unpaired = of(compare(bad, good), "acc_norm", invented.ARC)
    paired = of(compare(bad, good, invented.items(bad), invented.items(good)), "acc_norm", invented.ARC)

    assert unpaired.reason == UNPAIRED and unpaired.pairs is None
    assert unpaired.stderr is not None and paired.stderr is not None
    assert unpaired.stderr > paired.stderr


def test_answers_on_other_items_are_not_paired() -> None:
    bad, _, good = cells()
    half = invented.items(good)[:50]

    assert of(compare(bad, good, invented.items(bad), half), "acc_norm", invented.ARC).pairs is None


def test_a_cell_equals_itself() -> None:
    _, _, good = cells()
    differences = compare(good, good, invented.items(good), invented.items(good))

    assert {d.verdict for d in differences} == {"equal"}


def test_the_direction_is_the_metrics_own() -> None:
    bad, _, good = cells()
    differences = compare(bad, good)

    assert of(differences, "perplexity", invented.TEXT).verdict == "better"
    assert of(differences, "stored_bytes").verdict == "worse"
    assert of(compare(good, bad), "kl_mean", invented.TEXT).verdict == "worse"


def changed(record: Record, name: str, **update: object) -> Record:
    metrics = tuple(m.model_copy(update=update) if m.name == name else m for m in record.metrics)
    return record.model_copy(update={"metrics": metrics})


def test_perplexities_of_different_protocols_are_not_compared() -> None:
    bad, _, good = cells()
    refused = of(compare(bad, changed(good, "perplexity", protocol="stride 512")), "perplexity", invented.TEXT)

    assert (refused.verdict, refused.difference) == ("refused", None)
    assert refused.reason == f"different protocols: {invented.PROTOCOL} and stride 512"


def test_different_amounts_of_text_are_not_compared() -> None:
    bad, _, good = cells()
    whole = changed(good, "perplexity", task="wikitext2")
    refused = of(compare(bad, whole), "perplexity", "wikitext2")

    assert refused.verdict == "refused" and "wikitext2:8" in (refused.reason or "")


def test_text_metrics_of_different_models_are_not_compared_and_accuracies_are() -> None:
    bad, _, good = cells()
    other = good.model_copy(update={"spec": good.spec.model_copy(update={"model_sha256": "00" * 32})})
    differences = compare(bad, other)

    assert "tokenizer" in (of(differences, "perplexity", invented.TEXT).reason or "")
    assert of(differences, "acc_norm", invented.ARC).difference == pytest.approx(0.16)


def test_seconds_of_different_machines_are_not_compared() -> None:
    bad, _, good = cells()
    elsewhere = good.model_copy(update={"environment": good.environment.model_copy(update={"cpu": "Other"})})

    assert of(compare(bad, elsewhere), "quantize_s").reason == "different machines"
    assert of(compare(bad, elsewhere), "stored_bytes").verdict == "worse"


def test_seconds_of_different_phases_are_compared_as_costs() -> None:
    bad, _, good = cells()
    phases = changed(good, "quantize_s", protocol="load + capture (shared) + quantize")

    found = of(compare(bad, phases), "quantize_s")

    assert found.difference is not None and found.difference > 0
    assert found.verdict == "descriptive" and found.p_value is None


def test_only_exact_figures_are_judged_by_their_sign_alone() -> None:
    bad, _, good = cells()
    slower = changed(bad, "quantize_s", value=10.02)

    assert of(compare(changed(bad, "quantize_s", value=10.01), slower), "quantize_s").verdict == "descriptive"
    assert of(compare(bad, good), "kl_p99", invented.TEXT).verdict == "descriptive"
    assert of(compare(bad, good), "stored_bytes").verdict == "worse"


def test_few_windows_make_a_wide_test() -> None:
    bad, _, good = cells()
    few = [
        cell.model_copy(update={"metrics": tuple(m.model_copy(update={"clusters": 4}) for m in cell.metrics)})
        for cell in (bad, good)
    ]
    many, four = (of(compare(*pair), "perplexity", invented.TEXT) for pair in ((bad, good), few))

    assert many.p_value is not None and four.p_value is not None and four.p_value > 5 * many.p_value
    assert many.interval is not None and four.interval is not None and four.interval.low < many.interval.low


def test_three_windows_are_too_few_for_a_verdict() -> None:
    """Coverage was simulated from four windows on."""
    bad, _, good = cells()
    few = [
        cell.model_copy(update={"metrics": tuple(m.model_copy(update={"clusters": 3}) for m in cell.metrics)})
        for cell in (bad, good)
    ]
    found = of(compare(few[0], few[1]), "perplexity", invented.TEXT)

    assert found.p_value is None and "3 windows of text" in str(found.reason)


def test_what_one_cell_lacks_is_named() -> None:
    _, _, good = cells()
    reference = invented.benchmark()[0]
    missing = of(compare(reference, good), "kl_mean", invented.TEXT)

    assert (missing.a, missing.verdict, missing.reason) == (None, "refused", "not measured in A")


def test_a_table_is_corrected_as_a_whole() -> None:
    _, fair, good = cells()
    table = compare(fair, good, invented.items(fair), invented.items(good))
    p_values = {(d.name, d.task): d.p_value for d in table if d.p_value is not None}

    assert {(d.name, d.task): d.p_corrected for d in table if d.p_value is not None} == holm(p_values)
    assert all(d.p_corrected is None for d in table if d.p_value is None)


def test_a_difference_that_only_its_own_p_calls_real_is_in_doubt_in_a_table() -> None:
    _, fair, good = cells()
    alone = difference("acc_norm", invented.ARC, fair, good, invented.items(fair), invented.items(good))
    crowd = {str(i): alone for i in range(20)}

    assert (alone.verdict, alone.p_value) == ("better", 0.5**6)
    assert {d.verdict for d in corrected(crowd).values()} == {"cannot tell"}


def test_verdicts_do_not_depend_on_how_many_columns_are_shown() -> None:
    """Holm spans the declared endpoints alone: loss, mean divergence, one accuracy a task."""
    _, fair, good = cells()
    more = [
        tuple(
            Metric(name=f"kl_mean_part{i}", value=value + i, unit="nats", higher_is_better=False, task=invented.TEXT,
                   stderr=0.5, n=99)
            for i in range(20)
        )
        for value in (0.4, 0.3)
    ]  # fmt: skip
    crowded = [
        cell.model_copy(update={"metrics": (*cell.metrics, *extra)})
        for cell, extra in zip((fair, good), more, strict=True)
    ]
    items = (invented.items(fair), invented.items(good))
    plain, wide = compare(fair, good, *items), compare(crowded[0], crowded[1], *items)

    assert [d for d in wide if d.endpoint] == [d for d in plain if d.endpoint]
    assert [(d.name, d.task) for d in plain if d.endpoint] == [
        ("perplexity", invented.TEXT),
        ("kl_mean", invented.TEXT),
        ("acc_norm", invented.ARC),
        ("acc_norm", invented.HELLASWAG),
    ]
    assert all(d.p_value is None and d.verdict == "descriptive" for d in wide if d.name.startswith("kl_mean_part"))
    assert all(d.interval is not None for d in wide if d.name.startswith("kl_mean_part"))


def of_shares(lost: int, won: int, items: int) -> Difference:
    """An accuracy of so many items of which so many flip."""
    _, fair, good = cells()
    first = [1.0] * lost + [0.0] * won + [1.0] * (items - lost - won)
    second = [0.0] * lost + [1.0] * won + [1.0] * (items - lost - won)
    pair = []
    for cell, values in ((fair, first), (good, second)):
        mean = statistics.fmean(values)
        kept = [
            ItemOutcome(task=invented.ARC, item=str(i), values={"acc_norm": value}) for i, value in enumerate(values)
        ]
        metrics = tuple(
            m.model_copy(update={"value": mean, "n": items, "stderr": 0.01})
            if (m.name, m.task) == ("acc_norm", invented.ARC)
            else m
            for m in cell.metrics
        )
        pair.append((cell.model_copy(update={"metrics": metrics}), kept))
    (a, items_a), (b, items_b) = pair
    return difference("acc_norm", invented.ARC, a, b, items_a, items_b)


@pytest.mark.parametrize(
    ("flips", "verdict"),
    [
        ((17, 0, 100), "worse"),
        ((11, 6, 60), "cannot tell"),  # W4A8 on 60 items in the demo: perplexity 42.75 against 18.38
        ((0, 0, 60), "cannot tell"),  # no flip in 60 items does not exclude a loss of five points
        ((80, 80, 5000), "equivalent"),
        ((60, 100, 5000), "better"),
    ],
)
def test_there_are_three_answers(flips: tuple[int, int, int], verdict: str) -> None:
    found = of_shares(*flips)

    assert found.verdict == verdict
    assert found.is_within_margin == (flips[2] == 5000)
    assert found.smallest_seen is not None and found.smallest_seen > 0


def test_a_margin_can_be_stated() -> None:
    _, fair, good = cells()
    items = (invented.items(fair), invented.items(good))
    wide = of(compare(fair, good, *items, Margins(accuracy=0.25)), "acc_norm", invented.HELLASWAG)

    assert (wide.verdict, wide.is_within_margin, wide.margin) == ("better", True, 0.25)
    assert not of(compare(fair, good, *items), "acc_norm", invented.HELLASWAG).is_within_margin
    with pytest.raises(ValueError, match="margins"):
        Margins(accuracy=0.0)


def test_flips_are_counted_both_ways() -> None:
    assert flips([1, 1, 0, 0, 1], [1, 0, 1, 0, 0]) == Flips(to_wrong=2, to_right=1, n=5)
    assert flips([0.5, 1], [1, 1]) is None


def test_intervals_hold_the_difference_and_follow_the_kind_of_value() -> None:
    bad, _, good = cells()
    table = compare(bad, good, invented.items(bad), invented.items(good))
    share, loss = of(table, "acc_norm", invented.ARC), of(table, "perplexity", invented.TEXT)

    assert share.interval == MatchedShares(0, 16, 100).interval()
    assert share.flips == Flips(0, 16, 100)
    assert loss.interval is not None and present(loss.difference) in loss.interval and loss.interval.kind == "normal"
    assert of(table, "stored_bytes").interval is None


def early(record: Record, n: int) -> tuple[Record, list[ItemOutcome]]:
    """The cell as it would be had it stopped after `n` items of ARC."""
    stopped = TaskSpec(name="arc_easy", limit=100, order_seed=0, until_separated=0.95)
    task = str(stopped)
    kept = [item.model_copy(update={"task": task}) for item in invented.items(record) if item.task == invented.ARC][:n]
    right = sum(item.values["acc_norm"] for item in kept)
    tasks = tuple(stopped if spec.name == "arc_easy" else spec for spec in record.spec.tasks)
    metrics = tuple(
        m.model_copy(update={"task": task, "n": n, "value": right / n} if m.name == "acc_norm" else {"task": task})
        if m.task == invented.ARC
        else m
        for m in record.metrics
    )
    spec = record.spec.model_copy(update={"tasks": tasks})
    return record.model_copy(update={"spec": spec, "metrics": metrics}), kept


def test_cells_that_stopped_early_are_compared_on_common_items_with_a_p_that_allows_it() -> None:
    bad, _, good = cells()
    (a, items_a), (b, items_b) = early(bad, 60), early(good, 90)
    found = of(compare(a, b, items_a, items_b), "acc_norm", "arc_easy:100@0~0.95")
    values = [[item.values["acc_norm"] for item in items[:60]] for items in (items_a, items_b)]

    assert found.pairs == 60
    assert (found.a, found.b) == (statistics.fmean(values[0]), statistics.fmean(values[1]))
    assert found.p_value == evidence(*values).p_value
    assert found.interval is not None and found.interval.kind == "any time"


def test_without_kept_answers_cells_that_stopped_early_are_not_compared() -> None:
    bad, _, good = cells()

    assert of(compare(early(bad, 60)[0], early(good, 60)[0]), "acc_norm", "arc_easy:100@0~0.95").reason == NOT_KEPT


def windows(record: Record, losses: list[float]) -> tuple[Record, list[ItemOutcome]]:
    """The cell with this mean loss in each window of its text."""
    kept = [ItemOutcome(task=invented.TEXT, item=str(i), values={"nll_mean": x}) for i, x in enumerate(losses)]
    value = math.exp(statistics.fmean(losses))
    return changed(record, "perplexity", value=value, stderr=value * 0.1, n=len(losses)), kept


@pytest.mark.parametrize("count", [8, 40])
def test_perplexities_are_compared_window_by_window(count: int) -> None:
    """Windows differ far more from each other than cells do in each of them."""
    bad, _, good = cells()
    draws = np.random.default_rng(0)
    hard, apart = draws.normal(3, 0.5, size=count), draws.normal(0.02, 1e-4, size=count)
    (a, items_a), (b, items_b) = windows(good, hard.tolist()), windows(bad, (hard + apart).tolist())
    paired = of(compare(a, b, items_a, items_b), "perplexity", invented.TEXT)
    unpaired = of(compare(a, b), "perplexity", invented.TEXT)

    assert (paired.verdict, unpaired.verdict) == ("worse", "cannot tell")
    assert paired.pairs == count and paired.flips is None
    assert paired.difference == pytest.approx(present(a.metric("perplexity")).value * (math.exp(0.02) - 1), rel=0.02)
    assert paired.interval is not None and present(paired.difference) in paired.interval
    assert paired.interval.kind == "student"


@pytest.mark.parametrize("kept", [True, False])
def test_a_ruined_model_is_told_from_a_good_one_by_few_windows(kept: bool) -> None:
    """Its perplexity has an error as large as itself; its loss has not."""
    good, ruined = [3.1, 3.3, 2.9, 3.2], [16.1, 16.9, 15.8, 16.3]
    _, _, record = cells()
    two = []
    for losses in (good, ruined):
        ppl, error = math.exp(statistics.fmean(losses)), statistics.stdev(losses) / math.sqrt(4)
        two.append(changed(record, "perplexity", value=ppl, stderr=ppl * error, clusters=4))
    items = (windows(two[0], good)[1], windows(two[1], ruined)[1]) if kept else ((), ())
    found = of(compare(two[0], two[1], *items), "perplexity", invented.TEXT)

    assert found.verdict == "worse" and found.p_value is not None and found.p_value < 0.05
    assert found.interval is not None and 0 < found.interval.low < found.difference < found.interval.high  # type: ignore[operator]
    assert found.difference == pytest.approx(math.exp(statistics.fmean(ruined)) - math.exp(statistics.fmean(good)))


def test_differences_that_are_all_the_same_say_nothing_of_their_spread() -> None:
    """One token in each of two windows, as counts in few windows often have it."""
    _, _, record = cells()
    found = []
    for share in (0.982387, 0.981409):
        kept = [ItemOutcome(task=invented.TEXT, item=str(i), values={"top1_agreement": share + i}) for i in range(2)]
        cell = changed(record, "top1_agreement", value=share + 0.5, stderr=0.5, clusters=2, higher_is_better=True)
        found.append((cell, kept))
    (a, items_a), (b, items_b) = found
    one = of(compare(a, b, items_a, items_b), "top1_agreement", invented.TEXT)

    assert one.verdict == "descriptive" and one.p_value is None and one.interval is None
    assert one.difference == pytest.approx(-0.000978)
