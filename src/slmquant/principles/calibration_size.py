"""Beyond 8,000 tokens of calibration text, four times as many gain little."""

from slmquant.principles.common.calibrations import calibrated, only
from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.store.record import CalibrationSpec

ENOUGH = 8000
TIMES = 4


def larger(_text: str, a: CalibrationSpec, b: CalibrationSpec) -> bool:
    """Whether the second is the first with four times as many windows or more."""
    enough = a.num_samples * a.seq_len >= ENOUGH
    return enough and b.num_samples >= TIMES * a.num_samples and only("num_samples", a, b)


def suggested(_text: str, usual: CalibrationSpec) -> tuple[CalibrationSpec, CalibrationSpec]:
    """The usual set and a quarter of it, both with enough tokens."""
    fewer = max(usual.num_samples // TIMES, -(-ENOUGH // usual.seq_len))
    small = usual.model_copy(update={"num_samples": fewer})
    return small, small.model_copy(update={"num_samples": TIMES * fewer})


PRINCIPLE = Principle(
    rule="Beyond 8,000 tokens of calibration text, four times as many gain less than a tenth.",
    source="Williams and Aletras, 2023, arXiv 2311.09755, on how calibration data changes the results",
    prediction=Prediction("divergence with four times the windows, relative to that before", "above", -TENTH),
    evidence=calibrated(larger, suggested),
    if_it_holds=(Decision("note", Candidates(), "more calibration text than 8,000 tokens is not worth its time"),),
)
