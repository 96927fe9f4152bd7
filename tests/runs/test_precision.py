"""The decision for a dtype follows its own rule: a divergence with its interval, not a shift inside its noise."""

import math

import pytest

from slmquant.runs.precision import MAX_KL, _decide, _Run


def runs(seconds: tuple[float, float] = (2.0, 1.0), kl: float = 0.0003, shift: float = 0.0) -> list[_Run]:
    return [_Run(seconds, (3.0, 3.0 + shift), kl * (1 + 0.1 * (place % 2))) for place in range(8)]


@pytest.mark.parametrize(
    ("measured", "dtype"),
    [
        (runs(), "bfloat16"),
        (runs(seconds=(1.0, 1.0)), "float32"),
        (runs(kl=MAX_KL), "float32"),
        (runs(kl=math.nan), "float32"),
        (runs(kl=math.inf), "float32"),
        (runs(shift=-0.00109), "bfloat16"),
        (runs(shift=0.00109), "bfloat16"),
    ],
)
def test_bfloat16_has_to_be_faster_and_close(measured: list[_Run], dtype: str) -> None:
    assert _decide(measured, 4096).dtype == dtype


def test_the_upper_end_of_the_interval_decides() -> None:
    spread = [_Run((2.0, 1.0), (3.0, 3.0), 0.0001 if place else 0.0049) for place in range(8)]
    found = _decide(spread, 4096)

    assert found.kl < MAX_KL < found.kl_high
    assert found.dtype == "float32"


def test_one_disturbed_window_does_not_decide() -> None:
    disturbed = [*runs()[:6], *runs(seconds=(2.0, 9.0))[6:]]

    assert _decide(disturbed, 4096).speedup == 2.0


def test_rows_say_what_was_measured_and_accepted() -> None:
    metrics = {metric.name: metric for metric in _decide(runs(), 4096).metrics()}

    assert metrics["bf16_kl_mean"].stderr is not None
    assert "0.001 accepted; computed in bfloat16" in str(metrics["bf16_kl_mean"].protocol)
