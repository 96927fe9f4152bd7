"""At equal parameters a deeper model loses more, as errors pass through more layers."""

from slmquant.principles.common.between import LackingModels
from slmquant.principles.common.contract import TENTH, Prediction, Principle

PRINCIPLE = Principle(
    rule="At equal parameters a deeper and narrower model loses more than a shallow and wide one.",
    source="ours; no controlled result is known to us",
    prediction=Prediction("divergence of the deeper model, relative to that of the wider", "above", TENTH),
    evidence=LackingModels("two models with the same parameters, text and training, one deeper and one wider"),
)
