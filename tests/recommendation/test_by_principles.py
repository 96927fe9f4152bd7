"""What a principle refuses for a model is not measured, with the principle's name and reason."""

from __future__ import annotations

from slmquant import principles
from slmquant.principles.common.contract import Found
from slmquant.principles.common.verdicts import InModel, Judged
from slmquant.recommendation.by_principles import refusing
from slmquant.recommendation.evidence import Evidence
from slmquant.recommendation.space import Proposal
from tests import invented

PROPOSED = [
    Proposal("rtn", "Q8_0"),
    Proposal("gptq_mse", "Q8_0"),
    Proposal("gptq_mse", "Q4_0E8"),
    Proposal("slmq", None, 95_000_000),
]


def judged(verdict: str) -> Judged:
    in_model = InModel("invented-135m", "ab" * 32, None, verdict, 0.004, None, 0.001, 0.01, Found())  # type: ignore[arg-type]
    return Judged("eight_bit_weights", principles.load("eight_bit_weights"), (in_model,))


def test_what_a_principle_that_holds_refuses_is_left_out_with_its_reason() -> None:
    rule = refusing([judged("holds")], invented.MODEL)

    (ruled,) = rule(PROPOSED, Evidence("ab" * 32, None, ()))

    assert ruled.label == "gptq_mse/Q8_0"
    assert ruled.by == "the principle eight_bit_weights"
    assert "plain rounding is safe" in ruled.reason


def test_a_principle_that_fails_or_cannot_be_told_refuses_nothing() -> None:
    for verdict in ("fails", "cannot tell"):
        assert not refusing([judged(verdict)], invented.MODEL)(PROPOSED, Evidence("ab" * 32, None, ()))
