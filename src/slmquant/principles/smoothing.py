"""Smoothing moves the loss into the weights where these have 4 bits.

SmoothQuant divides channels of activations by factors and multiplies the weights after them: what becomes easier to
round in the one becomes harder in the other. With 8-bit weights there is room for it, with 4-bit weights there is not,
so smoothing should gain less there, or lose. Compared are the factors by which it changes the divergence at W8A8 and at
W4A8, by each kind of smoothing.
"""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import compared, interaction

SMOOTHING = ("smoothquant", "smoothquant_search", "smooth_rms")

PRINCIPLE = Principle(
    rule="Smoothing gains less where weights have 4 bits, as it moves the loss into them.",
    source="Xiao et al., ICML 2023, arXiv 2211.10438, which smooths for 8-bit weights",
    prediction=Prediction("change by smoothing at W4A8, relative to that at W8A8", "above", TENTH),
    evidence=compared(
        *(interaction(("rtn/W8A8", f"{name}/W8A8"), ("rtn/W4A8", f"{name}/W4A8")) for name in SMOOTHING),
        interaction(
            ("gptq_mse/W8A8", "smooth_rms+gptq_mse/W8A8"),
            ("gptq_mse/W4A8", "smooth_rms+gptq_mse/W4A8"),
        ),
    ),
    if_it_holds=(
        Decision(
            "prefer",
            Candidates(methods=SMOOTHING, weights=(8, 8), activations=(8, 8)),
            "with 8-bit weights smoothing keeps what it gains on activations",
        ),
        Decision(
            "prefer",
            Candidates(without=SMOOTHING, weights=(4, 4), activations=(8, 8)),
            "with 4-bit weights smoothing moves the loss into the weights",
        ),
    ),
)
