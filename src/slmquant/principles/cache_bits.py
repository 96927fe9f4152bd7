"""A key-value cache in 8 bits costs no divergence that matters."""

from slmquant.principles.common.contract import NEGLIGIBLE, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import compared, level

PRINCIPLE = Principle(
    rule="The cache may have 8 bits: that costs less than 0.01 nats.",
    source="Hooper et al., NeurIPS 2024, arXiv 2401.18079; Liu et al., ICML 2024, arXiv 2402.02750, below 8 bits",
    prediction=Prediction("divergence of an 8-bit cache from full precision", "below", NEGLIGIBLE),
    evidence=compared(level("rtn/W16A16KV8"), scale="nats"),
    if_it_holds=(
        Decision(
            "prefer",
            Candidates(cache=(8, 8)),
            "an 8-bit cache is half as large and costs next to nothing",
        ),
    ),
)
