"""Calibration on text like the text that is read helps.

Corpora of one kind with an evaluation text never share a document with it: they are other splits or other halves.
"""

from slmquant.principles.common.calibrations import calibrated, only
from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.store.record import CalibrationSpec, task_name

KINDS = {
    "wikitext2": ("wikitext2_train", "wikitext2_validation"),
    "exl_wiki": ("exl_wiki_calib", "wikitext2_train"),
    "c4": ("c4_train_a", "exl_c4_calib"),
    "tinystories": ("exl_tiny_calib",),
}
"""Text → calibration corpora of its kind."""
OTHER = "exl_technical_calib"


def nearer(text: str, a: CalibrationSpec, b: CalibrationSpec) -> bool:
    """Whether only the second is of the text's kind."""
    kind = KINDS.get(task_name(text), ())
    return a.corpus not in kind and b.corpus in kind and only("corpus", a, b)


def suggested(text: str, usual: CalibrationSpec) -> tuple[CalibrationSpec, CalibrationSpec] | None:
    """A set of another kind and one of the text's."""
    kind = KINDS.get(task_name(text))
    if kind is None:
        return None
    near = usual.corpus if usual.corpus in kind else kind[0]
    return usual.model_copy(update={"corpus": OTHER}), usual.model_copy(update={"corpus": near})


PRINCIPLE = Principle(
    rule="Text of the kind that will be read is better to calibrate on, by more than a tenth.",
    source="Williams and Aletras, 2023, arXiv 2311.09755",
    prediction=Prediction("divergence with text of its kind, relative to that with other text", "below", -TENTH),
    evidence=calibrated(nearer, suggested),
    if_it_holds=(Decision("note", Candidates(), "calibrate on text of the kind that the model will read"),),
)
