"""Embeddings and head in 8 bits cost little beside linears in 4, and where they are large they are most of a file.

Of SmolLM2-135M they are a fifth of the parameters, of Gemma-3-270M two thirds; in 16 bits beside 4-bit linears that is
half of the file and nine tenths.
"""

from slmquant.principles.common.contract import TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import change, compared

PRINCIPLE = Principle(
    rule="Beside 4-bit linears, 8 bits for embeddings and head add less than a tenth to the divergence.",
    source="ours; cf. llama.cpp, whose mixtures keep the head in 6 or 8 bits",
    prediction=Prediction("divergence with 8-bit embeddings, relative to that with 16 bits", "below", TENTH),
    evidence=compared(
        change("rtn/W4A16g64", "rtn/W4A16g64E8"),
        change("gptq_mse/W4A16g64", "gptq_mse/W4A16g64E8"),
        change("rtn/Q4_0", "rtn/Q4_0E8"),
    ),
    if_it_holds=(
        Decision(
            "prefer",
            Candidates(weights=(4, 4), embeddings=(8, 8)),
            "embeddings are a fifth of this model or more, and 8 bits for them cost next to nothing",
            embedding_share=(0.2, 1.0),
        ),
    ),
)
