"""In 4 bits the first token needs a share of its own in the Hessian, beside tokens that count by their relative error.

Later tokens attend to the first whatever it is, and it is one token of a window: an error of its key reaches all of
them, and GPTQ hardly counts it. `gptq_sink` differs from `gptq_energy` in that share alone.
"""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import change, compared

PRINCIPLE = Principle(
    rule="In 4 bits the first token's key must be protected, by a share of its own in the Hessian.",
    source="ours; cf. Xiao et al., ICLR 2024, arXiv 2309.17453, and Sung et al., 2025, arXiv 2503.01820",
    prediction=Prediction("divergence with the share, relative to that without", "below", -TENTH),
    evidence=compared(change("gptq_energy/W4A16g64", "gptq_sink/W4A16g64")),
    if_it_holds=(
        Decision(
            "refuse",
            Candidates(methods=("gptq", "gptq_energy"), weights=(4, 4)),
            "the first token's share of the Hessian lowers the divergence; take gptq_sink or gptq_mse",
        ),
    ),
)
