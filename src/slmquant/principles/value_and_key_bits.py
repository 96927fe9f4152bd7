"""Values and keys deserve more bits than other linears.

Queries share them in groups, so they are few, and an error of one reaches several heads. `Q4_0_S` is `Q4_0` with head,
values and keys in 8 bits.
"""

from slmquant.principles.common.bytes import worth_more
from slmquant.principles.common.contract import Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision

PRINCIPLE = Principle(
    rule="Values and keys deserve more bits: 8 for them gain more per byte than a fifth bit for every linear.",
    source="ours; cf. llama.cpp, whose mixtures give values more bits",
    prediction=Prediction(
        "divergence gained by 8-bit values and keys, less that by as many bytes for all", "above", 0.0
    ),
    evidence=worth_more("rtn/Q4_0E8", "rtn/Q4_0_S", "rtn/Q4_0E8", "rtn/Q5_0E8"),
    if_it_holds=(
        Decision(
            "prefer",
            Candidates(schemes=("Q4_0_S", "Q4_0_M")),
            "values and keys in 8 bits gain more per byte than other linears",
        ),
    ),
)
