"""INVENTED TEST DATA: cells of a ladder with a planted truth. No number here was ever measured."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from slmquant.analysis.ladder import Ladder, ladder
from slmquant.ladder.rungs import RUNGS, WIDTHS
from slmquant.store.record import Environment, ItemOutcome, Metric, Record
from tests import invented

STEPS, CONTEXT = 8, 512


class Planted:
    """Cells of models whose token takes a fixed time, and a time for each byte of weights.

    Args:
        noise: Standard deviation of the logarithm of a round's time, for each file.
        others: Share of the processor that others took.
        rounds: Rounds of each file.
    """

    def __init__(self, noise: float = 0.0, others: float = 0.0, rounds: int = 10, seed: int = 0) -> None:
        self.noise, self.others, self.rounds = noise, others, rounds
        self.drawn = random.Random(seed)
        self.records: list[Record] = []
        self.items: dict[str, list[ItemOutcome]] = {}

    def size(
        self,
        name: str,
        fixed_s: float = 1e-3,
        bytes_per_s: float = 5e9,
        own_bytes: float = 5e7,
        engine: str = "llamacpp",
        widths: Sequence[str] = tuple(WIDTHS),
        environment: Environment = invented.ENVIRONMENT,
    ) -> None:
        """Add the files of a size on an engine."""
        rung = RUNGS[name]
        for scheme in widths:
            weights = rung.parameters * WIDTHS[scheme] / 8
            cache = rung.cache_bytes(CONTEXT)
            sizes = {
                "weight_bytes": weights,
                "cache_bytes": cache,
                "artifact_bytes": weights + 1e5,
                "inference_added_rss_bytes": own_bytes + cache + weights,
                "load_s": 0.1,
                "noise_others": self.others,
            }
            spec = rung.cells(engine)[scheme]
            metrics = tuple(invented.metric(metric, value, unit="bytes") for metric, value in sizes.items())
            self.add(
                invented.record(spec.method, spec.scheme, metrics, cell=spec, environment=environment).model_copy(
                    update={"model": rung.card}
                ),
                fixed_s + weights / bytes_per_s,
            )

    def add(self, record: Record, token_s: float) -> None:
        """Add a cell that decodes a token in this time; a token of the prompt takes a hundredth."""
        self.records.append(record)
        self.items[record.cell_id] = [
            ItemOutcome(task=f"engine@{CONTEXT}", item=str(turn), values=self._round(token_s))
            for turn in range(self.rounds)
        ]

    def found(self) -> Ladder:
        """What the cells show."""
        return ladder(self.records, self.items.__getitem__)

    def _round(self, token_s: float) -> dict[str, float]:
        taken = token_s * math.exp(self.drawn.gauss(0, self.noise))
        steps = {f"step_{step}_s": taken for step in range(STEPS)}
        return {"decode_s": STEPS * taken, "prefill_s": CONTEXT * taken / 100, **steps}


def metric_of(record: Record, name: str) -> Metric:
    """A metric that a record has."""
    found = record.metric(name)
    assert found is not None
    return found
