"""Verdicts on principles: in each model, corrected over all of them, and over the models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from scipy.special import ndtri

from slmquant.analysis.endpoints import POWER, SIGNIFICANCE
from slmquant.analysis.intervals import Interval, quantile
from slmquant.analysis.multiple import holm
from slmquant.principles.common.cells import ModelCells
from slmquant.principles.common.contract import Finding, Found, Principle
from slmquant.principles.common.decisions import Decision
from slmquant.principles.common.laboratory import found_in, gathered
from slmquant.store.record import ModelCard

__all__ = ["InModel", "Judged", "Verdict", "judge"]

Verdict = Literal["holds", "fails", "cannot tell"]


@dataclass(frozen=True)
class InModel:
    """The verdict on a principle in one model.

    Attributes:
        model: The model's source, as given.
        sha256: Fingerprint of its weights.
        provenance: Where its weights come from; None if no record says so.
        verdict: `holds` or `fails` if the effect is told apart from the margin, on the predicted side or the other.
        effect: The estimated effect; None without evidence.
        interval: Its 95 % interval.
        p_value: Two-sided p of an effect that is equal to the margin.
        p_corrected: The same, corrected by Holm over all principles and models.
        found: The evidence.
        n_needed: If it cannot be told: about how many windows or items would tell such an effect from the margin, with
            80 % probability and without correction.
    """

    model: str
    sha256: str
    provenance: str | None
    verdict: Verdict
    effect: float | None
    interval: Interval | None
    p_value: float | None
    p_corrected: float | None
    found: Found
    n_needed: int | None = None


@dataclass(frozen=True)
class Judged:
    """A principle with its verdict.

    Attributes:
        name: Its name.
        principle: The principle.
        models: The verdict in each model.
    """

    name: str
    principle: Principle
    models: tuple[InModel, ...]

    @property
    def verdict(self) -> Verdict:
        """`fails` if it fails in a model, `holds` if it holds in one and fails in none."""
        verdicts = {of_model.verdict for of_model in self.models}
        return "fails" if "fails" in verdicts else "holds" if "holds" in verdicts else "cannot tell"

    @property
    def failed_in(self) -> tuple[str, ...]:
        """Models in which it fails."""
        return tuple(of_model.model for of_model in self.models if of_model.verdict == "fails")

    @property
    def exceptions(self) -> tuple[tuple[InModel, Finding], ...]:
        """Single contrasts that lie on the other side of the margin with their whole interval, without correction."""
        prediction = self.principle.prediction
        return tuple(
            (of_model, finding)
            for of_model in self.models
            for finding in of_model.found.findings
            if prediction.is_contradicted(finding.interval)
        )

    def decisions(self, sha256: str | None = None, card: ModelCard | None = None) -> tuple[Decision, ...]:
        """What follows for a model: from its own verdict if it was told in it, else from that over all models.

        Args:
            sha256: Fingerprint of the model's weights.
            card: Facts about it, on which some decisions depend.
        """
        own = next((m.verdict for m in self.models if m.sha256 == sha256 and m.verdict != "cannot tell"), None)
        return tuple(decision for decision in self._after(own or self.verdict) if decision.applies_to(card))

    @property
    def follows(self) -> tuple[Decision, ...]:
        """What follows from the verdict over all models, for those models that it applies to."""
        return self._after(self.verdict)

    def _after(self, verdict: Verdict) -> tuple[Decision, ...]:
        principle = self.principle
        return {"holds": principle.if_it_holds, "fails": principle.if_it_fails, "cannot tell": ()}[verdict]

    def as_json(self) -> dict[str, object]:
        """Everything as plain values."""
        principle = self.principle
        return {
            "name": self.name,
            "rule": principle.rule,
            "source": principle.source,
            "prediction": asdict(principle.prediction),
            "scale": principle.evidence.scale,
            "verdict": self.verdict,
            "failed_in": self.failed_in,
            "models": [_as_json(of_model) for of_model in self.models],
            "decisions": [decision.as_json() for decision in self.follows],
        }


def judge(principles: Mapping[str, Principle], models: Sequence[ModelCells]) -> list[Judged]:
    """Test principles on models; the p of each principle in each model is corrected by Holm over all of them.

    The models of a laboratory are one model, whose sample is its seeds.
    """
    models = gathered(models)
    found = {
        (name, place): found_in(principle.evidence, model, models)
        for name, principle in principles.items()
        for place, model in enumerate(models)
    }
    p_values = {}
    for (name, place), of_model in found.items():
        if of_model.estimate is not None:
            p = of_model.estimate.p_value(principles[name].prediction.margin)
            if p is not None:
                p_values[name, place] = p
    corrected = holm(p_values)
    return [
        Judged(
            name,
            principle,
            tuple(
                _in_model(model, principle, found[key], p_values.get(key), corrected.get(key))
                for model, key in ((model, (name, place)) for place, model in enumerate(models))
            ),
        )
        for name, principle in principles.items()
    ]


def _in_model(
    model: ModelCells, principle: Principle, found: Found, p_value: float | None, p_corrected: float | None
) -> InModel:
    estimate = found.estimate
    verdict: Verdict = "cannot tell"
    if estimate is not None and p_corrected is not None and p_corrected < SIGNIFICANCE:
        verdict = "holds" if principle.prediction.is_right(estimate.mean) else "fails"
    return InModel(
        model.model,
        model.sha256,
        None if model.card is None else model.card.provenance,
        verdict,
        None if estimate is None else estimate.mean,
        None if estimate is None else estimate.interval(),
        p_value,
        p_corrected,
        found,
        _needed(found, principle.prediction.margin) if verdict == "cannot tell" else None,
    )


def _needed(found: Found, margin: float) -> int | None:
    estimate = found.estimate
    if estimate is None or not estimate.stderr or estimate.mean == margin:
        return None
    reach = quantile(1 - SIGNIFICANCE) + float(ndtri(POWER))
    return math.ceil(found.n * (reach * estimate.stderr / (estimate.mean - margin)) ** 2)


def _as_json(of_model: InModel) -> dict[str, object]:
    found = of_model.found
    return {
        "model": of_model.model,
        "model_sha256": of_model.sha256,
        "provenance": of_model.provenance,
        "verdict": of_model.verdict,
        "effect": of_model.effect,
        "interval": None if of_model.interval is None else asdict(of_model.interval),
        "p_value": of_model.p_value,
        "p_corrected": of_model.p_corrected,
        "n": found.n,
        "counted": found.counted,
        "n_needed": of_model.n_needed,
        "evidence": [asdict(finding) for finding in found.findings],
        "missing": [asdict(lack) for lack in found.needs],
        "remarks": found.remarks,
    }
