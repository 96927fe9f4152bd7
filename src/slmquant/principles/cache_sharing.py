"""The more queries share a key, the more bits the cache needs, as an error of one key reaches all of them."""

from slmquant.principles.common.between import LackingModels
from slmquant.principles.common.contract import TENTH, Prediction, Principle

PRINCIPLE = Principle(
    rule="The more queries share a key, the more a 4-bit cache costs.",
    source="ours; no controlled result is known to us",
    prediction=Prediction("divergence with fewer keys, relative to that with one for each query", "above", TENTH),
    evidence=LackingModels("two models trained alike that differ in the number of their keys alone, at W16A16KV4"),
)
