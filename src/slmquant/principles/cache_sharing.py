"""The more queries share a key, the more bits the cache needs, as an error of one key reaches all of them."""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.laboratory import THE_BASE, InLaboratory

PRINCIPLE = Principle(
    rule="The more queries share a key, the more a 4-bit cache costs.",
    source="ours; no controlled result is known to us",
    prediction=Prediction("divergence with fewer keys, relative to that with one for each query", "above", TENTH),
    evidence=InLaboratory(
        tuple((THE_BASE, ("key_heads", shared)) for shared in ("gqa", "mqa")),
        cells=("rtn/W16A16KV4",),
        plan="plans/lab-cache.yaml",
    ),
)
