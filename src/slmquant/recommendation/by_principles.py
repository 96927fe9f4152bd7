"""Leaves out proposals that a principle refuses for a model, before they are measured.

A principle's verdict is computed from all records; where it was told in the model itself, that counts, else the verdict
over all models. What was measured is judged by its figures and never left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from slmquant.principles.common.verdicts import Judged
from slmquant.recommendation.answer import Ruled
from slmquant.recommendation.evidence import Evidence
from slmquant.recommendation.schedule import Rule
from slmquant.recommendation.space import Proposal
from slmquant.schemes import parse
from slmquant.store.record import ModelCard


def refusing(judged: Sequence[Judged], card: ModelCard | None) -> Rule:
    """The rule that follows from principles for a model."""

    def rule(proposals: Sequence[Proposal], evidence: Evidence) -> list[Ruled]:
        return [
            Ruled(label=one.label, by=f"the principle {principle.name}", reason=decision.why)
            for principle in judged
            for decision in principle.decisions(evidence.sha256 or None, card)
            if decision.action == "refuse"
            for one in proposals
            if one.scheme is not None and decision.candidates.include(one.method, parse(one.scheme))
        ]

    return rule
