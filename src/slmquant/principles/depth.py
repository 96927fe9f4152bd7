"""At equal parameters a deeper model loses more, as errors pass through more layers."""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.laboratory import InLaboratory

PRINCIPLE = Principle(
    rule="At equal parameters a deeper and narrower model loses more than a shallow and wide one.",
    source="ours; no controlled result is known to us",
    prediction=Prediction("divergence of the deeper model, relative to that of the wider", "above", TENTH),
    evidence=InLaboratory(((("depth", "wide"), ("depth", "deep")),)),
)
