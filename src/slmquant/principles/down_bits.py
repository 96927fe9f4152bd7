"""The last linears of feed-forward networks deserve more bits than other linears.

They read the products of gate and up, which have outliers, and write to the residual stream. `Q4_0_M` is `Q4_0_S` with
three quarters of them in 8 bits.
"""

from slmquant.principles.common.bytes import worth_more
from slmquant.principles.common.contract import Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision

PRINCIPLE = Principle(
    rule="Last linears of feed-forward networks deserve more bits: 8 for them gain more per byte than a fifth for all.",
    source="ours; cf. llama.cpp, whose mixtures give them more bits",
    prediction=Prediction("gain of 8-bit last linears, less that of as many bytes for all linears", "above", 0.0),
    evidence=worth_more("rtn/Q4_0_S", "rtn/Q4_0_M", "rtn/Q4_0E8", "rtn/Q5_0E8"),
    if_it_holds=(
        Decision(
            "prefer",
            Candidates(schemes=("Q4_0_M",)),
            "the last linears of feed-forward networks in 8 bits gain more per byte than other linears",
        ),
    ),
)
