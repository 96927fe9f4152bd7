"""With 8-bit activations a rotation, which costs time at every token, gains nothing over smoothing, which is free.

Compared are plain ones with each other, QuaRot's rotation and Smooth-RMS before rounding to nearest, and learned ones,
SpinQuant and OmniQuant. SpinQuant also rounds weights with feedback, which at 8 bits changes little.
"""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import change, compared

PRINCIPLE = Principle(
    rule="With 8-bit activations a rotation gains less than a tenth over smoothing.",
    source="ours, from the costs of an online rotation",
    prediction=Prediction("divergence of the rotated model, relative to the smoothed one", "above", -TENTH),
    evidence=compared(change("smooth_rms/W8A8", "quarot+rtn/W8A8"), change("omniquant/W8A8", "spinquant/W8A8")),
    if_it_holds=(
        Decision(
            "refuse",
            Candidates(methods=("quarot", "quarot_mse", "spinquant", "spinquant_frozen"), activations=(8, 8)),
            "with 8-bit activations smoothing does as well, and costs nothing at run time",
        ),
    ),
    if_it_fails=(
        Decision(
            "prefer",
            Candidates(methods=("quarot", "quarot_mse", "spinquant", "spinquant_frozen"), activations=(8, 8)),
            "with 8-bit activations a rotation gains more than smoothing, if its cost at run time is no matter",
        ),
    ),
)
