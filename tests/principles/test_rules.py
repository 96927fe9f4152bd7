"""The principles themselves: their contract, and the evidence that is a kind of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slmquant import principles
from slmquant.principles.common.verdicts import Judged
from slmquant.principles.published_ranking import kendall
from slmquant.store.jsonlines import read_cells
from slmquant.store.record import CalibrationSpec
from slmquant.testing.principle_contract import check_principle
from tests.principles.planted import TEXT, Planted

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
ISSUED = {
    "8-bit weights": "eight_bit_weights",
    "activations limit 8 bits": "eight_bit_activations",
    "embedding bits": "embedding_bits",
    "classes": "value_and_key_bits",
    "group size": "group_size",
    "rotation": "rotation_below_eight_bits",
    "smoothing": "smoothing",
    "first token": "first_token",
    "zero points": "zero_points",
    "calibration": "calibration_domain",
    "cache": "cache_sharing",
    "training": "training_length",
    "depth": "depth",
    "ranking": "published_ranking",
    "accuracy": "accuracy_noise",
}


def verdict_on(name: str, cells: Planted) -> Judged:
    return cells.judged(principles.load(name))[0]


@pytest.mark.parametrize("name", principles.names())
def test_every_principle_keeps_the_contract(name: str) -> None:
    records, items = read_cells(PUBLISHED / "activations.jsonl")

    assert check_principle(name, records, items).refusal is None


def test_every_principle_that_was_asked_for_is_there() -> None:
    assert set(ISSUED.values()) <= set(principles.names())


def test_principles_are_read_without_torch() -> None:
    code = (
        "import sys; from slmquant import principles; "
        "[principles.load(name) for name in principles.names()]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_a_verdict_is_json() -> None:
    cells = Planted()
    for name, divergence in (("rtn/W8A16", 0.002), ("rtn/W16A8", 0.02)):
        cells.cell(name, divergence)
    written = json.loads(json.dumps(verdict_on("eight_bit_activations", cells).as_json()))

    assert written["verdict"] == "holds"
    assert written["models"][0]["evidence"][0]["cells"] == [record.cell_id for record in cells.records]
    assert written["decisions"][0]["action"] == "prefer"


@pytest.mark.parametrize(("divergence", "verdict"), [(0.25, "holds"), (0.39, "fails")])
def test_values_and_keys_are_worth_more_if_their_bytes_gain_more(divergence: float, verdict: str) -> None:
    """The step has a quarter of the bytes of a bit for all, which gains 0.2 nats: 0.05 is as much per byte."""
    cells = Planted(noise=0.01, difficulty=0.1)
    for name, value, size in (
        ("rtn/Q4_0E8", 0.4, 100.0),
        ("rtn/Q4_0_S", divergence, 105.0),
        ("rtn/Q5_0E8", 0.2, 120.0),
    ):
        cells.cell(name, value, stored_bytes=size)
    found = verdict_on("value_and_key_bits", cells)

    assert found.verdict == verdict
    assert found.models[0].effect == pytest.approx(0.4 - divergence - 0.05, rel=0.2)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("calibration_size", CalibrationSpec(num_samples=32), CalibrationSpec(num_samples=128)),
        ("calibration_length", CalibrationSpec(num_samples=256, seq_len=128), CalibrationSpec(num_samples=64)),
    ],
)
def test_calibration_that_gains_little_bears_the_rule_out(
    name: str, before: CalibrationSpec, after: CalibrationSpec
) -> None:
    for gained, verdict in ((0.98, "holds"), (0.5, "fails")):
        cells = Planted(noise=0.02)
        cells.cell("gptq/W4A16g64", 0.2, calibration=before)
        cells.cell("gptq/W4A16g64", 0.2 * gained, calibration=after)
        found = verdict_on(name, cells)

        assert found.verdict == verdict
        assert len(found.models[0].found.findings) == 1


@pytest.mark.parametrize(
    "changes", [{"num_samples": 64}, {"num_samples": 512, "seed": 1}, {"num_samples": 512, "corpus": "exl_code_calib"}]
)
def test_calibration_sets_that_differ_in_something_else_are_not_compared(changes: dict[str, object]) -> None:
    cells = Planted()
    usual = cells.cell("gptq/W4A16g64", 0.2).spec.calibration
    assert usual is not None
    cells.cell("gptq/W4A16g64", 0.1, calibration=usual.model_copy(update=changes))

    assert verdict_on("calibration_size", cells).models[0].effect is None


def test_text_of_the_kind_that_is_read_is_told_from_other_text() -> None:
    cells = Planted()
    cells.cell("gptq/W4A16g64", 0.3, calibration=CalibrationSpec(corpus="exl_code_calib"))
    cells.cell("gptq/W4A16g64", 0.2, calibration=CalibrationSpec(corpus="wikitext2_train"))
    found = verdict_on("calibration_domain", cells)

    assert found.verdict == "holds"
    assert (
        found.models[0]
        .found.findings[0]
        .label.endswith("exl_code_calib 128×512 seed 0 → wikitext2_train 128×512 seed 0")
    )


def test_missing_calibrations_are_asked_for_by_their_options() -> None:
    cells = Planted()
    cells.cell("gptq/W4A16g64", 0.3, calibration=CalibrationSpec(num_samples=64))
    commands = [lack.command for lack in verdict_on("calibration_length", cells).models[0].found.needs]

    assert "--samples 256 --seq-len 128" in commands[0]
    assert "--samples 64 --seq-len 512" in commands[1]


@pytest.mark.parametrize(
    ("ranks", "losses", "correlation"),
    [
        ((0, 1, 2), (3.0, 2.0, 1.0), 1.0),
        ((0, 1, 2), (1.0, 2.0, 3.0), -1.0),
        ((0, 1, 2, 3), (4.0, 2.0, 3.0, 1.0), 4 / 6),
        ((0, 0, 1), (2.0, 3.0, 1.0), 1.0),
    ],
)
def test_rank_correlations(ranks: tuple[int, ...], losses: tuple[float, ...], correlation: float) -> None:
    assert kendall(ranks, losses) == pytest.approx(correlation)


@pytest.mark.parametrize(("awq", "verdict"), [(0.1, "holds"), (0.9, "fails")])
def test_the_published_order_is_held_against_that_of_the_divergences(awq: float, verdict: str) -> None:
    cells = Planted()
    for name, divergence in (("rtn", 0.4), ("gptq", 0.2), ("awq", awq)):
        cells.cell(f"{name}/W4A16g64", divergence)

    assert verdict_on("published_ranking", cells).verdict == verdict


def test_accuracy_that_tells_nothing_apart_is_noise() -> None:
    cells = Planted()
    for place in range(9):
        cells.cell(f"rtn+x{place}/W4A16g64", 0.1 * 1.5**place, accuracies={"piqa": [1, 0] * 20})
    found = verdict_on("accuracy_noise", cells)

    assert found.models[0].found.n == 8
    assert found.models[0].effect == 0
    assert found.verdict == "holds"


def test_accuracy_that_tells_all_apart_is_no_noise() -> None:
    cells = Planted()
    for place in range(9):
        cells.cell(
            f"rtn+x{place}/W4A16g64", 0.1 * 1.5**place, accuracies={"piqa": [1] * (200 - 20 * place) + [0] * 20 * place}
        )
    found = verdict_on("accuracy_noise", cells)

    assert found.models[0].effect == 1
    assert found.verdict == "fails"


def test_pairs_that_divergence_does_not_tell_apart_do_not_count() -> None:
    cells = Planted()
    for place in range(3):
        cells.cell(f"rtn+x{place}/W4A16g64", 0.1 * 1.02**place, accuracies={"piqa": [1, 0] * 20})

    assert verdict_on("accuracy_noise", cells).models[0].effect is None


def test_checkpoints_of_one_run_are_compared() -> None:
    cells = Planted()
    for model, divergence in (
        ("run/checkpoint-1000", 0.2),
        ("run/checkpoint-4000", 0.4),
        ("other/checkpoint-9000", 0.9),
    ):
        cells.cell("rtn/W4A16g64", divergence, model=model)
    first, later, other = verdict_on("training_length", cells).models

    assert later.verdict == "holds"
    assert [one.label for one in later.found.findings] == ["rtn/W4A16g64: run/checkpoint-1000 → run/checkpoint-4000"]
    assert first.effect is None
    assert other.effect is None


def test_checkpoints_with_too_few_steps_between_are_not_compared() -> None:
    cells = Planted()
    for model, divergence in (("run/checkpoint-1000", 0.2), ("run/checkpoint-3000", 0.4)):
        cells.cell("rtn/W4A16g64", divergence, model=model, task=TEXT)

    assert all(one.effect is None for one in verdict_on("training_length", cells).models)
