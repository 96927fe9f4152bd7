"""The scores of the SLMQuant paper (arXiv 2511.13023), where 100 means parity with the reference.

::

    SLMQ_perf  = 100 · sqrt( mean over data sets of E(A^c / A)² )
    SLMQ_infer = 100 · sqrt( ( E(M / M^c)² + E(TPS^c / TPS)² + E(S / S^c)² ) / 3 )
    SLMQ_cons  = 100 · sqrt( ( E(T_ref / T)² + E(M_ref / M)² ) / 2 )

`^c` marks the compressed model and E is the mean over models. The third formula is ours, modelled on the other two: the
paper's could not be recovered. Choices that the paper leaves open are options here.

A quadratic mean rewards one large ratio, so each score also carries the harmonic mean and the minimum of the same
terms. A small model reduced to guessing still scores about 70 on SLMQ_perf, so `score_table` also gives a score from
accuracies alone, with (A^c − chance) / (A − chance) in place of A^c / A. A term below chance counts as negative: square
and root keep its sign, so noise around chance averages out. No task is left out: if full precision is not significantly
above chance on a task, there is no such score, and the reason says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slmquant.analysis.intervals import Interval

Expectation = Literal["mean_then_square", "square_then_mean"]
"""Order of the mean over models and the square: E(x)², as in BiBench, or E(x²)."""


@dataclass(frozen=True)
class Score:
    """A score times 100, or the reason why there is none.

    Attributes:
        value: Quadratic mean of the terms; None if it cannot be computed.
        harmonic_mean: Harmonic mean of the same terms; 0 if a term is 0.
        minimum: The smallest term.
        ratios: The terms: name → ratio (1 is parity), or its mean over models.
        reason: Why there is no value, or a remark on the value.
        interval: Its 95 % interval; None if answers were not stored, or nothing was repeated.
    """

    value: float | None
    harmonic_mean: float | None = None
    minimum: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class ScoreOptions:
    """Choices that the paper leaves open.

    Attributes:
        expectation: Mean, then square (the default), or square, then mean.
        perplexity: Whether perplexity counts as one of the data sets, inverted: ppl / ppl^c.
        consumption_reference: The method whose cell of the same model, scheme and machine scores 100.
        inference_context: Context length at which decoding speed is taken, in tokens, or the longest one below that
            which the model supports.
        cost_per_hour: Money that an hour of the machine costs; reports have a column of costs only with it.
    """

    expectation: Expectation = "mean_then_square"
    perplexity: bool = True
    consumption_reference: str = "rtn"
    inference_context: int = 512
    cost_per_hour: float | None = None


DEFAULT_OPTIONS = ScoreOptions()


def slmq_perf(
    ratios: Mapping[str, Sequence[float]],
    expectation: Expectation = "mean_then_square",
    reason: str | None = None,
) -> Score:
    """Track 1, compression performance.

    Args:
        ratios: Data set → A^c / A for each model (for perplexity ppl / ppl^c).
        expectation: Order of the mean over models and the square.
        reason: A remark to attach to the score.

    Raises:
        ValueError: There is no data set, no model, or a ratio that is negative or not finite.
    """
    return _quadratic(ratios, expectation, reason)


def slmq_perf_above_chance(
    ratios: Mapping[str, Sequence[float]], expectation: Expectation = "mean_then_square"
) -> Score:
    """Track 1 with chance-corrected accuracies; a term below chance counts as negative.

    Args:
        ratios: Data set → (A^c − chance) / (A − chance) for each model.
        expectation: Order of the mean over models and the square.

    Raises:
        ValueError: There is no data set, no model, or a ratio that is not finite.
    """
    return _quadratic(ratios, expectation, is_signed=True)


def signed_quadratic(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quadratic mean over the first axis that keeps the sign of negative terms."""
    squared = (np.sign(terms) * terms**2).mean(axis=0)
    return np.asarray(np.sign(squared) * np.sqrt(np.abs(squared)))


def slmq_infer(
    memory: Sequence[float],
    tokens_per_s: Sequence[float],
    size: Sequence[float],
    expectation: Expectation = "mean_then_square",
) -> Score:
    """Track 2, inference performance, from one ratio for each model.

    Args:
        memory: M / M^c, peak memory during inference above that of the empty process.
        tokens_per_s: TPS^c / TPS, decoding speed.
        size: S / S^c, stored size.
        expectation: Order of the mean over models and the square.

    Raises:
        ValueError: A sequence is empty, or a ratio is negative or not finite.
    """
    return _quadratic({"memory": memory, "tokens per second": tokens_per_s, "size": size}, expectation)


def slmq_cons(time: Sequence[float], memory: Sequence[float], expectation: Expectation = "mean_then_square") -> Score:
    """Track 3, quantization consumption, from one ratio for each model.

    Args:
        time: T_ref / T, processor time of quantizing.
        memory: M_ref / M, peak memory of quantizing above the loaded model.
        expectation: Order of the mean over models and the square.

    Raises:
        ValueError: A sequence is empty, or a ratio is negative or not finite.
    """
    return _quadratic({"time": time, "memory": memory}, expectation)


def _quadratic(
    terms: Mapping[str, Sequence[float]],
    expectation: Expectation,
    reason: str | None = None,
    is_signed: bool = False,
) -> Score:
    if not terms:
        raise ValueError("a score needs at least one term; got none")
    for name, ratios in terms.items():
        if not ratios:
            raise ValueError(f"no ratio for {name!r}; expected one per model")
        if not all(math.isfinite(ratio) and (is_signed or ratio >= 0) for ratio in ratios):
            raise ValueError(f"ratios of {name!r} are {list(ratios)}; expected finite numbers, 0 or more")
    means = {name: math.fsum(ratios) / len(ratios) for name, ratios in terms.items()}
    if expectation == "mean_then_square":
        squares = [mean * abs(mean) for mean in means.values()]
    else:
        squares = [math.fsum(ratio * abs(ratio) for ratio in ratios) / len(ratios) for ratios in terms.values()]
    smallest = min(means.values())
    harmonic = len(means) / math.fsum(1 / mean for mean in means.values()) if smallest > 0 else 0.0
    square = math.fsum(squares) / len(squares)
    return Score(
        value=math.copysign(100 * math.sqrt(abs(square)), square),
        harmonic_mean=100 * harmonic,
        minimum=100 * smallest,
        ratios=means,
        reason=reason,
    )
