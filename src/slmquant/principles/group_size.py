"""Groups pay even in the short rows of small models.

A scale for each row serves thousands of weights in a model of 7B and a few hundred in a small one, so one might expect
groups of 64 to gain little here; each costs a quarter of a bit per weight.
"""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import change, compared

PRINCIPLE = Principle(
    rule="In 4 bits groups of 64 pay even in rows of a few hundred weights.",
    source="Dettmers and Zettlemoyer, ICML 2023, arXiv 2212.09720, on groups in large models",
    prediction=Prediction("divergence in groups of 64, relative to that with a scale for each row", "below", -TENTH),
    evidence=compared(
        change("rtn/W4A16", "rtn/W4A16g64"),
        change("gptq_mse/W4A16", "gptq_mse/W4A16g64"),
    ),
    if_it_holds=(
        Decision(
            "refuse",
            Candidates(weights=(4, 4), activations=(16, 16), grouped=False),
            "groups lower the divergence by more than they add to the size",
        ),
    ),
)
