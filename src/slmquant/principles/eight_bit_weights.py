"""Rounding weights to 8 bits, and nothing else, costs no divergence that matters.

Evidence is the divergence itself, so the rule is about the plainest method; a better one can only cost less.
"""

from slmquant.principles.common.contract import NEGLIGIBLE, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import compared, level

PRINCIPLE = Principle(
    rule="8-bit weights are safe: plain rounding costs less than 0.01 nats.",
    source="Dettmers et al., NeurIPS 2022, arXiv 2208.07339; Yao et al., 2023, arXiv 2303.08302",
    prediction=Prediction("divergence of 8-bit weights from full precision", "below", NEGLIGIBLE),
    evidence=compared(level("rtn/W8A16"), level("rtn/Q8_0"), scale="nats"),
    if_it_holds=(
        Decision(
            "refuse",
            Candidates(without=("rtn", "kquant"), weights=(8, 8), activations=(16, 16)),
            "plain rounding is safe with 8-bit weights, and other methods cost time",
        ),
    ),
)
