"""Rotations help where activations have fewer than 8 bits.

Compared is QuaRot's rotation, with the clipping of activations that it comes with, against none, both with plain
rounding.
"""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import change, compared

ROTATIONS = ("quarot", "quarot_mse", "spinquant", "spinquant_frozen")

PRINCIPLE = Principle(
    rule="A rotation lowers the divergence where activations have 4 bits.",
    source="Ashkboos et al., NeurIPS 2024, arXiv 2404.00456",
    prediction=Prediction("divergence of the rotated model, relative to the other", "below", -TENTH),
    evidence=compared(change("rtn/W4A4", "quarot+rtn/W4A4"), change("rtn/W8A4", "quarot+rtn/W8A4")),
    if_it_holds=(
        Decision(
            "refuse",
            Candidates(without=ROTATIONS, activations=(4, 4)),
            "with 4-bit activations an outlier channel takes the range of all others unless the model is rotated",
        ),
    ),
)
