"""Explains the divergence of one quantized model: by part of the model, by kind of prediction, and by example."""

from __future__ import annotations

from datetime import datetime, timezone

from slmquant.diagnosis.parts import divisions
from slmquant.diagnosis.predictions import buckets, worst
from slmquant.diagnosis.subject import Setup, prepare
from slmquant.diagnosis.switches import Rounded
from slmquant.errors import RefusedError
from slmquant.machine.environment import environment
from slmquant.model.sources.resolve import public_name
from slmquant.progress import Progress, track
from slmquant.schemes import Scheme
from slmquant.store.explanations import Explanation, Part


def explain(setup: Setup, scheme: Scheme, progress: Progress) -> Explanation:
    """Measure each part of the model alone and given back, and look at every prediction with everything rounded.

    Args:
        setup: The model, and how to measure.
        scheme: The scheme.
        progress: Receives progress updates.

    Raises:
        SlmquantError: It cannot be done; the message says why.
    """
    if scheme.is_full_precision:
        raise RefusedError("full precision does not diverge from itself, so there is nothing to explain; name a scheme")
    subject = prepare(setup, scheme, progress)
    everything = subject.switches.everything

    jobs = [
        (family, name, part)
        for family, parts in divisions(subject.switches, subject.relations).items()
        for name, part in parts.items()
    ]
    parts = [
        Part(
            family=family,
            name=name,
            alone=subject.measured(part),
            given_back=subject.measured(everything - part),
        )
        for family, name, part in track(jobs, "parts of the model", progress)
    ]
    none = subject.measured(Rounded())
    tokens = subject.tokens(everything)
    return Explanation(
        model=public_name(setup.source),
        model_sha256=subject.model_sha256,
        method=setup.method,
        scheme=str(scheme),
        calibration=subject.calibration,
        compute_dtype=subject.compute_dtype,
        samples=subject.samples,
        environment=environment(),
        finished_at=datetime.now(timezone.utc),
        whole=subject.by_window(tokens),
        none=none,
        parts=tuple(parts),
        buckets=buckets(subject, tokens),
        worst=worst(subject, tokens),
    )
