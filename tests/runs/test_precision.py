"""The decision for a mode follows its own rule: a divergence with its interval, not a shift inside its noise."""

import math
from collections.abc import Mapping

import pytest

from slmquant.runs.precision import MAX_KL, _decide, _Run
from slmquant.store.record import ComputeDtype

FAST: Mapping[ComputeDtype, float] = {"float32": 3.0, "bfloat16": 2.0, "bfloat16_all": 1.0}


def runs(
    seconds: Mapping[ComputeDtype, float] = FAST, kl: float = 0.0003, all_kl: float = 0.0003, shift: float = 0.0
) -> list[dict[ComputeDtype, _Run]]:
    def run(place: int, name: ComputeDtype, mean: float, moved: float) -> _Run:
        return _Run(seconds[name], 3.0 + moved, mean * (1 + 0.1 * (place % 2)))

    return [
        {
            "float32": run(place, "float32", 0.0, 0.0),
            "bfloat16": run(place, "bfloat16", kl, shift),
            "bfloat16_all": run(place, "bfloat16_all", all_kl, shift),
        }
        for place in range(8)
    ]


@pytest.mark.parametrize(
    ("measured", "dtype"),
    [
        (runs(), "bfloat16_all"),
        (runs(seconds={"float32": 1.0, "bfloat16": 1.0, "bfloat16_all": 1.0}), "float32"),
        (runs(seconds={"float32": 3.0, "bfloat16": 1.0, "bfloat16_all": 0.95}), "bfloat16"),
        (runs(seconds={"float32": 3.0, "bfloat16": 2.9, "bfloat16_all": 1.0}), "bfloat16_all"),
        (runs(kl=MAX_KL), "bfloat16_all"),
        (runs(all_kl=MAX_KL), "bfloat16"),
        (runs(kl=MAX_KL, all_kl=math.nan), "float32"),
        (runs(kl=math.inf, all_kl=MAX_KL), "float32"),
        (runs(shift=-0.00109), "bfloat16_all"),
        (runs(shift=0.00109), "bfloat16_all"),
    ],
)
def test_a_mode_has_to_be_faster_and_close(measured: list[dict[ComputeDtype, _Run]], dtype: str) -> None:
    assert _decide(measured, 4096).dtype == dtype


def test_the_upper_end_of_the_interval_decides() -> None:
    spread = runs(all_kl=math.inf)
    for place, run in enumerate(spread):
        run["bfloat16"] = _Run(2.0, 3.0, 0.0001 if place else 0.0049)
    found = _decide(spread, 4096)

    assert found.trials[0].kl < MAX_KL < found.trials[0].kl_high
    assert found.dtype == "float32"


def test_one_disturbed_window_does_not_decide() -> None:
    disturbed = runs()
    for run in disturbed[6:]:
        run["bfloat16"] = _Run(9.0, 3.0, 0.0003)

    assert _decide(disturbed, 4096).trials[0].speedup == 1.5


def test_rows_say_what_was_measured_and_accepted() -> None:
    metrics = {metric.name: metric for metric in _decide(runs(), 4096).metrics()}

    assert {"bf16_speedup", "bf16_all_speedup", "bf16_kl_mean", "bf16_all_kl_mean"} < set(metrics)
    assert metrics["bf16_all_kl_mean"].stderr is not None
    assert "0.001 accepted; computed in bfloat16_all" in str(metrics["bf16_all_kl_mean"].protocol)
