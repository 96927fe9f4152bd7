"""The longer a model was trained, the more rounding costs.

More text in the same weights leaves less room for errors: after Kumar et al. the added loss grows with the square root
of the tokens, so four times the steps double it.
"""

from slmquant.principles.common.between import LaterCheckpoints
from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.laboratory import THE_BASE, InLaboratory

PRINCIPLE = Principle(
    rule="Longer training makes a model more brittle: four times the steps add more than a tenth to the divergence.",
    source="Kumar et al., 2024, arXiv 2411.04330; Ouyang et al., ACL 2025, arXiv 2411.17691",
    prediction=Prediction("divergence of the later checkpoint, relative to that of the earlier", "above", TENTH),
    evidence=InLaboratory(
        ((("tokens", "quarter"), THE_BASE),),
        elsewhere=LaterCheckpoints(
            4,
            "slmquant bench RUN/checkpoint-1000 RUN/checkpoint-4000 --methods rtn --schemes W4A16g64 "
            "--tasks wikitext2:32",
        ),
    ),
    if_it_holds=(Decision("note", Candidates(), "of two models of one size, the one trained on less text loses less"),),
)
