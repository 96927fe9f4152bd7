"""Zero points lower the divergence of 4-bit groups.

A symmetric grid wastes a part of its codes where the weights of a group lie to one side of zero; with 16 codes and
groups of 64 that is common.
"""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import change, compared

PRINCIPLE = Principle(
    rule="In 4 bits zero points lower the divergence of groups by more than a tenth.",
    source="Frantar et al., ICLR 2023, arXiv 2210.17323, and Lin et al., MLSys 2024, arXiv 2306.00978, which have them",
    prediction=Prediction("divergence with zero points, relative to that of a symmetric grid", "below", -TENTH),
    evidence=compared(
        change("rtn/W4A16g64", "rtn/W4A16g64-asym"),
        change("gptq_mse/W4A16g64", "gptq_mse/W4A16g64-asym"),
    ),
    if_it_holds=(
        Decision(
            "prefer",
            Candidates(weights=(4, 4), grouped=True, symmetric=False),
            "zero points lower the divergence of 4-bit groups",
        ),
    ),
)
