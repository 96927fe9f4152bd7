"""At 8 bits the activations cost more than the weights."""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import change, compared

PRINCIPLE = Principle(
    rule="Activations, not weights, limit 8 bits.",
    source="Dettmers et al., NeurIPS 2022, arXiv 2208.07339; Yao et al., 2023, arXiv 2303.08302",
    prediction=Prediction("divergence of rounded activations, relative to that of rounded weights", "above", TENTH),
    evidence=compared(change("rtn/W8A16", "rtn/W16A8")),
    if_it_holds=(
        Decision(
            "prefer",
            Candidates(
                methods=("smoothquant", "smoothquant_search", "smooth_rms", "llm_int8"),
                weights=(8, 8),
                activations=(8, 8),
            ),
            "at 8 bits the activations cost more than the weights, and this treats activations",
        ),
    ),
)
