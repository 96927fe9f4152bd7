"""Two cells are called different only where noise alone would hardly do it."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from slmquant.analysis.compare import UNPAIRED, Difference, compare
from slmquant.analysis.paired import mcnemar_exact, paired_test
from slmquant.store.record import Record
from tests import invented


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 9), (10, 10), (2, 40), (300, 360)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0

    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-9)


def test_a_paired_test_by_hand() -> None:
    test = paired_test([1, 1, 0, 0], [1, 0, 0, 0])

    assert test.difference == -0.25
    assert test.stderr == pytest.approx(math.sqrt((3 * 0.0625 + 0.5625) / 3 / 4))
    assert (test.p_value, test.n) == (1.0, 4)


def test_series_that_are_not_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired_test([1.0], [1.0, 0.0])


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
    assert clear.p_value == pytest.approx(2 * 0.5**16)
    assert unclear.p_value == pytest.approx(2 * 0.5**5)
    assert unclear.verdict == "indistinguishable"


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

    assert of(compare(bad, phases), "quantize_s").verdict == "worse"


def test_what_one_cell_lacks_is_named() -> None:
    _, _, good = cells()
    reference = invented.benchmark()[0]
    missing = of(compare(reference, good), "kl_mean", invented.TEXT)

    assert (missing.a, missing.verdict, missing.reason) == (None, "refused", "not measured in A")
