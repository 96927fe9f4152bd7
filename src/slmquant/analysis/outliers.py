"""Whether outliers limit rounded activations: what keeping them recovers, and what taming them does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slmquant.analysis.intervals import CONFIDENCE
from slmquant.analysis.operands import MARGIN, Verdict, verdict_of
from slmquant.analysis.window_means import Array, Figure, WindowMeans, logs, ratio
from slmquant.store.experiments import Ablation, Arm, Divergence, DoseResponse, Sample

Response = Literal["limit", "do not limit", "cannot tell"]
"""Whether outliers of a site limit rounding: some dose below 1 lowers the divergence by more than `MARGIN`, or none.

Not the smallest dose alone decides: a channel that is tamed too far is rounded too coarsely itself.
"""


@dataclass(frozen=True)
class Recovery:
    """What keeping a share of the channels or tokens in full precision recovers.

    Attributes:
        kept: Channels or tokens.
        share: The share.
        largest: Share of the divergence that the largest recover.
        at_random: Share that as many at random recover, the mean over draws.
        beyond: The difference.
        verdict: What the interval of the difference shows.
    """

    kept: Literal["channels", "tokens"]
    share: float
    largest: Figure
    at_random: Figure
    beyond: Figure
    verdict: Verdict


@dataclass(frozen=True)
class DoseCurve:
    """The divergence as channels of one site are scaled.

    Attributes:
        site: The site.
        arm: What is scaled and rounded.
        ratios: Dose → divergence over that of dose 1, in the order of doses.
        below: Slope of the logarithm of the divergence at doses up to 1, per doubling; None if no dose lies there.
        above: The same from 1 on.
        rises: Whether no dose has a lower divergence than a smaller dose.
        response: What taming shows.
    """

    site: str
    arm: Arm
    ratios: dict[float, Figure]
    below: Figure | None
    above: Figure | None
    rises: bool
    response: Response


def recoveries(ablation: Ablation, samples: Sequence[Sample]) -> tuple[Recovery, ...]:
    """Evaluate an ablation; intervals of differences hold for all rows together with 95 % (Bonferroni)."""
    means = _means([ablation.whole, *(cell.divergence for cell in ablation.cells)], samples)
    places: dict[tuple[str, float], list[int]] = {}
    for place, cell in enumerate(ablation.cells, start=1):
        places.setdefault((cell.kept, cell.share), []).append(place)
    kinds: tuple[Literal["channels", "tokens"], ...] = ("channels", "tokens")
    rows = [(kind, share) for kind in kinds for kept, share in places if kept == kind]
    together = 1 - (1 - CONFIDENCE) / len(rows)
    return tuple(
        _recovery(means, kind, share, places[kind, share], places[f"random {kind}", share], together)
        for kind, share in rows
    )


def dose_curves(response: DoseResponse, samples: Sequence[Sample]) -> tuple[DoseCurve, ...]:
    """Evaluate a dose-response: outliers of each site, then the other arms.

    Ratios and slopes hold for all doses of all sites together with 95 % (Bonferroni).
    """
    means = _means([response.whole, *(cell.divergence for cell in response.cells)], samples)
    places: dict[tuple[Arm, str], dict[float, list[int]]] = {}
    for place, cell in enumerate(response.cells, start=1):
        places.setdefault((cell.arm, cell.site), {1.0: [0]}).setdefault(cell.dose, []).append(place)
    compared = sum(len(doses) - 1 for (arm, _), doses in places.items() if arm == "outliers")
    together = 1 - (1 - CONFIDENCE) / compared
    return tuple(
        _curve(means, arm, site, dict(sorted(doses.items())), together)
        for (arm, site), doses in sorted(places.items(), key=lambda one: one[0][0] != "outliers")
    )


def _means(divergences: Sequence[Divergence], samples: Sequence[Sample]) -> WindowMeans:
    texts = (np.array([divergence[text] for divergence in divergences]) for text in range(len(samples)))
    return WindowMeans(tuple(texts), tuple(sample.positions for sample in samples))


def _recovery(
    means: WindowMeans,
    kind: Literal["channels", "tokens"],
    share: float,
    best: list[int],
    random: list[int],
    together: float,
) -> Recovery:
    def of(cells: list[int], x: Array) -> Array:
        return 1 - ratio(x[cells].mean(axis=0), x[0])

    beyond = means.figure(lambda x: of(best, x) - of(random, x), together)
    largest, at_random = means.figure(lambda x: of(best, x)), means.figure(lambda x: of(random, x))
    return Recovery(kind, share, largest, at_random, beyond, verdict_of(beyond))


def _curve(means: WindowMeans, arm: Arm, site: str, doses: dict[float, list[int]], together: float) -> DoseCurve:
    def divergence(dose: float, x: Array) -> Array:
        return np.asarray(x[doses[dose]].mean(axis=0))

    def ratio_at(dose: float) -> Figure:
        return means.positive(lambda x: ratio(divergence(dose, x), divergence(1.0, x)), together)

    def slope(chosen: list[float]) -> Figure | None:
        if len(chosen) < 2:
            return None
        steps = np.array([math.log2(dose) for dose in chosen])
        weights = (steps - steps.mean()) / ((steps - steps.mean()) ** 2).sum()
        return means.figure(lambda x: weights @ logs(np.stack([divergence(dose, x) for dose in chosen])), together)

    ratios = {dose: ratio_at(dose) for dose in doses if dose != 1}
    values = [float(divergence(dose, means.means[:, None])[0]) for dose in doses]
    return DoseCurve(
        site=site,
        arm=arm,
        ratios=ratios,
        below=slope([dose for dose in doses if dose <= 1]),
        above=slope([dose for dose in doses if dose >= 1]),
        rises=all(a <= b for a, b in itertools.pairwise(values)),
        response=_response([ratios[dose] for dose in ratios if dose < 1]),
    )


def _response(tamed: Sequence[Figure]) -> Response:
    """What the ratios at doses below 1 show."""
    if any(one.is_below(1 - MARGIN) for one in tamed):
        return "limit"
    return "do not limit" if tamed and all(one.exceeds(1 - MARGIN) for one in tamed) else "cannot tell"
