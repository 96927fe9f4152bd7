"""Means and quantiles over the tokens of a text, as metrics with a standard error that knows of windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.store.record import Metric

METRIC_VERSION = 1
"""Of perplexity and the divergences; raised when the definition of one changes."""


@dataclass(frozen=True)
class Labels:
    """What all metrics of one text have in common.

    Attributes:
        task: The task, as `str(TaskSpec)`.
        protocol: How the text was cut and read.
    """

    task: str
    protocol: str

    def metric(
        self,
        name: str,
        value: float,
        unit: str,
        higher_is_better: bool | None,
        n: int,
        stderr: float | None = None,
        clusters: int | None = None,
    ) -> Metric:
        """One figure, and how many windows its standard error rests on."""
        return Metric(
            name=name,
            value=value,
            unit=unit,
            higher_is_better=higher_is_better,
            task=self.task,
            n=n,
            stderr=stderr,
            clusters=None if stderr is None else clusters,
            version=METRIC_VERSION,
            protocol=self.protocol,
        )

    def mean(
        self, name: str, values: Float[Tensor, "windows predictions"], unit: str, higher_is_better: bool | None
    ) -> Metric:
        """The mean of all values that are not NaN, of which there must be one."""
        mean, stderr = clustered_mean(values)
        return self.metric(name, mean, unit, higher_is_better, int((~values.isnan()).sum()), stderr, len(values))

    def quantile(
        self,
        name: str,
        values: Float[Tensor, "windows predictions"],
        share: float,
        unit: str,
        higher_is_better: bool | None,
    ) -> Metric:
        """The quantile of all values that are not NaN, of which there must be one."""
        quantile, stderr = clustered_quantile(values, share)
        return self.metric(name, quantile, unit, higher_is_better, int((~values.isnan()).sum()), stderr, len(values))


def clustered_mean(values: Float[Tensor, "clusters items"]) -> tuple[float, float | None]:
    """Mean over all items that are not NaN, and its standard error with items of one cluster dependent.

    Neighbouring tokens of a window share their text, so the windows and not the tokens are the independent
    draws. The error is that of a ratio estimator, √(C/(C−1) · Σ_c (S_c − mean·n_c)²) / n; a single cluster
    has none.
    """
    present = ~values.isnan()
    counts = present.sum(dim=1).double()
    sums = values.double().nan_to_num(0.0).sum(dim=1)
    total = counts.sum()
    mean = sums.sum() / total
    clusters = len(values)
    if clusters < 2:
        return float(mean), None
    spread = ((sums - mean * counts) ** 2).sum() * clusters / (clusters - 1)
    return float(mean), float(spread.sqrt() / total)


def clustered_quantile(values: Float[Tensor, "clusters items"], share: float) -> tuple[float, float | None]:
    """Quantile over all items that are not NaN, and its standard error with items of one cluster dependent.

    Woodruff (1952), "Confidence Intervals for Medians and Other Position Measures": the share of items at most as large
    as the quantile has a standard error, that of a mean; the quantiles so much to either side are one standard error
    of the quantile away. A single cluster has none.
    """
    present = values[~values.isnan()].double()
    quantile = present.quantile(share)
    below = (values <= quantile).double().masked_fill_(values.isnan(), torch.nan)
    _, error = clustered_mean(below)
    if error is None:
        return float(quantile), None
    ends = torch.tensor([max(0.0, share - error), min(1.0, share + error)], dtype=torch.double)
    low, high = present.quantile(ends).tolist()
    return float(quantile), (high - low) / 2
