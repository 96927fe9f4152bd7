"""What a candidate's divergence will be, before it is measured, to order what is tried: from other cells.

The logarithm of a divergence is taken as a sum: a level of the model, a gain of the method, and the bits of a weight,
each of which halves rounding errors and so quarters the divergence:

    log KL  =  level(model)  +  gain(method)  −  BITS · bits

Gains are means over the cells of the same model and scheme, of whatever models records have; the level comes from the
model's own cells. A prediction only says what is tried first and what is left out as hopeless; it is never a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from slmquant.store.record import Record

BITS = math.log(4)
"""Fall of the logarithm of a divergence per bit of a weight, if errors are small."""
USUAL_GAINS: Mapping[str, float] = {
    "rtn": 0.0,
    "gptq": -0.7,
    "awq": -0.6,
    "gptq_mse": -1.4,
    "gptq_mse+scale_tuning": -1.6,
    "slmq": -2.0,
}
"""Gains where no record tells: `benchmarks/recommend_regret.py` prints those of the published cells."""
UNKNOWN_GAIN = -1.2
"""Gain of a method that no record has: as good as most, so that it is tried."""
_USUAL_LEVEL = 5.0
SPREAD = 0.5
"""Standard error of a prediction."""


@dataclass(frozen=True)
class Prior:
    """Predictions for one model.

    Attributes:
        gains: Method → its gain.
        level: Level of the model.
    """

    gains: Mapping[str, float] = field(default_factory=lambda: dict(USUAL_GAINS))
    level: float = _USUAL_LEVEL

    def log_divergence(self, method: str, bits: float) -> float:
        """The logarithm of the divergence of a method with so many bits per weight."""
        return self.level + self.gain(method) - BITS * bits

    def gain(self, method: str) -> float:
        """The gain of a method, else of the best of its parts; one of which nothing is known is worth a try."""
        if method in self.gains:
            return self.gains[method]
        return min((self.gains[part] for part in method.split("+") if part in self.gains), default=UNKNOWN_GAIN)

    def at_level(self, seen: Iterable[tuple[str, float, float]]) -> Prior:
        """The same gains, with the level of a model's own cells: (method, bits, divergence) of each."""
        levels = [math.log(kl) - self.gain(method) + BITS * bits for method, bits, kl in seen if kl > 0]
        return Prior(self.gains, median(levels)) if levels else self


def gains_of(records: Sequence[Record], apart_from: str | None = None) -> dict[str, float]:
    """The gains of methods against plain rounding, over the recorded models but one.

    Args:
        records: Records of any models.
        apart_from: A model whose records are left out.
    """
    groups: dict[tuple[object, ...], dict[str, float]] = {}
    for record in records:
        metric = next((m for m in record.metrics if m.name == "kl_mean" and m.value > 0), None)
        if record.status != "ok" or metric is None or record.spec.model == apart_from or record.spec.is_reference:
            continue
        spec = record.spec
        key = (spec.model_sha256, spec.scheme, metric.task, spec.compute_dtype)
        groups.setdefault(key, {})[spec.method] = math.log(metric.value)
    found: dict[str, list[float]] = {}
    for of_method in groups.values():
        if "rtn" in of_method:
            for method, value in of_method.items():
                found.setdefault(method, []).append(value - of_method["rtn"])
    return {method: fmean(values) for method, values in sorted(found.items())}
