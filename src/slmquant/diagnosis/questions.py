"""Answers questions about a model by experiments, all on the same windows of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from slmquant import methods
from slmquant.calib.corpora import check_corpus
from slmquant.diagnosis.ablation import run_ablation
from slmquant.diagnosis.doses import run_doses
from slmquant.diagnosis.factorial import check_scheme, run_factorial
from slmquant.diagnosis.subject import Setup, prepare
from slmquant.errors import RefusedError, UnknownNameError
from slmquant.machine.environment import environment
from slmquant.methods.common.recipe import Recipe
from slmquant.model.sources.resolve import public_name
from slmquant.progress import Progress
from slmquant.schemes import Scheme
from slmquant.store.experiments import QUESTIONS, Ablation, DoseResponse, Experiments, Factorial


def ask(setup: Setup, schemes: Sequence[Scheme], questions: Collection[str], progress: Progress) -> Experiments:
    """Run the experiments that answer some questions.

    Args:
        setup: The model, and how to measure.
        schemes: Schemes, at least one; ablation and doses are run once for each format of activations among them.
        questions: Some of `store.experiments.QUESTIONS`.
        progress: Receives progress updates.

    Raises:
        SlmquantError: It cannot be done; the message says why.
    """
    recipe = methods.load(setup.method)
    _check(setup, schemes, questions, recipe)
    factorials, ablations, doses = list[Factorial](), list[Ablation](), list[DoseResponse]()
    if "operands" in questions:
        for scheme in schemes:
            subject = prepare(setup, scheme, progress)
            factorials.append(run_factorial(subject, scheme, progress))
    if set(questions) - {"operands"}:
        alone = setup if recipe.transforms else replace(setup, method="rtn")  # no weight is rounded
        for scheme in _of_activations(schemes):
            subject = prepare(alone, scheme, progress)
            if "ablation" in questions:
                ablations.append(run_ablation(subject, scheme, progress))
            if "doses" in questions:
                doses.append(run_doses(subject, scheme, progress))
    return Experiments(
        model=public_name(setup.source),
        model_sha256=subject.model_sha256,
        method=setup.method,
        calibration=setup.calibration if any(map(recipe.looks_at_data, schemes)) else None,
        compute_dtype=subject.compute_dtype,
        samples=subject.samples,
        environment=environment(),
        finished_at=datetime.now(timezone.utc),
        factorials=tuple(factorials),
        ablations=tuple(ablations),
        doses=tuple(doses),
    )


def _check(setup: Setup, schemes: Sequence[Scheme], questions: Collection[str], recipe: Recipe) -> None:
    """Refuse what cannot be answered before anything is loaded."""
    if not schemes or not setup.texts or not questions:
        raise RefusedError("an experiment needs a question, a scheme and a text; name some, or leave the options out")
    for question in questions:
        if question not in QUESTIONS:
            raise UnknownNameError("question", question, QUESTIONS)
    for name in setup.texts:
        check_corpus(name)
    if "operands" in questions:
        for scheme in schemes:
            check_scheme(scheme)
            if (reason := recipe.refusal(scheme)) is not None:
                raise RefusedError(f"{setup.method}: {reason}")
    if set(questions) - {"operands"} and not _of_activations(schemes):
        named = ", ".join(map(str, schemes))
        raise RefusedError(f"{named} leaves activations in 16 bits, and the question is about them; use e.g. W8A8")


def _of_activations(schemes: Sequence[Scheme]) -> list[Scheme]:
    """Schemes that round only activations, each format of `schemes` once."""
    formats = dict.fromkeys(scheme.activations for scheme in schemes)
    return [Scheme(activations=spec) for spec in formats if spec is not None]
