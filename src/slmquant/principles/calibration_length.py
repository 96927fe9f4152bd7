"""At equal calibration tokens, longer windows gain little."""

from slmquant.principles.common.calibrations import calibrated
from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.store.record import CalibrationSpec

TIMES = 4


def longer(_text: str, a: CalibrationSpec, b: CalibrationSpec) -> bool:
    """Whether the second has as many tokens as the first in windows of four times the length or more."""
    as_many = a.num_samples * a.seq_len == b.num_samples * b.seq_len
    return as_many and b.seq_len >= TIMES * a.seq_len and (a.corpus, a.seed) == (b.corpus, b.seed)


def suggested(_text: str, usual: CalibrationSpec) -> tuple[CalibrationSpec, CalibrationSpec] | None:
    """The usual set and one of windows a quarter as long."""
    if usual.seq_len < TIMES * 8:
        return None
    shorter = {"num_samples": TIMES * usual.num_samples, "seq_len": usual.seq_len // TIMES}
    whole = usual.model_copy(update={"seq_len": TIMES * shorter["seq_len"]})
    return usual.model_copy(update=shorter), whole


PRINCIPLE = Principle(
    rule="At equal calibration tokens, windows of four times the length gain less than a tenth.",
    source="Frantar et al., ICLR 2023, arXiv 2210.17323, which calibrates on windows of the whole context",
    prediction=Prediction("divergence with windows of four times the length, relative to that before", "above", -TENTH),
    evidence=calibrated(longer, suggested),
    if_it_holds=(Decision("note", Candidates(), "the length of calibration windows may be chosen by speed"),),
)
