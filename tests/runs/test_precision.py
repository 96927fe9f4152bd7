"""The decision for a dtype follows its own rule."""

import math

import pytest

from slmquant.runs.precision import MAX_SHIFT, _decide, _Run


def runs(seconds: tuple[float, float], losses: tuple[float, float]) -> list[list[_Run]]:
    return [[_Run(second, loss) for second, loss in zip(seconds, losses, strict=True)] for _ in range(3)]


@pytest.mark.parametrize(
    ("seconds", "losses", "dtype"),
    [
        ((2.0, 1.0), (3.0, 3.0), "bfloat16"),
        ((1.0, 1.0), (3.0, 3.0), "float32"),
        ((2.0, 1.0), (3.0, 3.0 + 2 * MAX_SHIFT), "float32"),
        ((2.0, 1.0), (3.0, 3.0 - 2 * MAX_SHIFT), "float32"),
        ((2.0, 1.0), (3.0, math.nan), "float32"),
    ],
)
def test_bfloat16_has_to_be_faster_and_as_good(
    seconds: tuple[float, float], losses: tuple[float, float], dtype: str
) -> None:
    assert _decide(runs(seconds, losses), 30).dtype == dtype


def test_one_disturbed_window_does_not_decide() -> None:
    disturbed = [*runs((2.0, 1.0), (3.0, 3.0)), [_Run(2.0, 3.0), _Run(9.0, 3.0)]]

    assert _decide(disturbed, 40).speedup == 2.0
