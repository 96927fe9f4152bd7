"""Means and quantiles over a text's tokens, with standard errors that allow for dependent tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.analysis.serial import SeriesMean, series_mean
from slmquant.store.record import Metric
from slmquant.versions import METRICS

METRIC_VERSION = METRICS["text"]
"""Version of perplexity and the divergences; raised when one of their definitions changes."""


@dataclass(frozen=True)
class Labels:
    """Facts that all metrics of one text share.

    Attributes:
        task: The task, as `str(TaskSpec)`.
        protocol: Words on how the text was split and read.
        positions: Position of each window in the text, in windows.
    """

    task: str
    protocol: str
    positions: tuple[int, ...]

    def metric(
        self,
        name: str,
        value: float,
        unit: str,
        higher_is_better: bool | None,
        n: int,
        error: SeriesMean | None = None,
    ) -> Metric:
        """One figure, with the standard error of `error`, which the caller has scaled if need be."""
        known = error is not None and error.stderr is not None
        return Metric(
            name=name,
            value=value,
            unit=unit,
            higher_is_better=higher_is_better,
            task=self.task,
            n=n,
            stderr=error.stderr if error is not None else None,
            clusters=error.windows if error is not None and known else None,
            freedom=error.freedom if error is not None else None,
            version=METRIC_VERSION,
            protocol=self.protocol,
        )

    def mean(
        self, name: str, values: Float[Tensor, "windows predictions"], unit: str, higher_is_better: bool | None
    ) -> Metric:
        """The mean of all values that are not NaN; at least one is needed."""
        estimate = clustered_mean(values, self.positions)
        return self.metric(name, estimate.mean, unit, higher_is_better, _present(values), estimate)

    def quantile(
        self,
        name: str,
        values: Float[Tensor, "windows predictions"],
        share: float,
        unit: str,
        higher_is_better: bool | None,
    ) -> Metric:
        """The quantile of all values that are not NaN; at least one is needed."""
        estimate = clustered_quantile(values, share, self.positions)
        return self.metric(name, estimate.mean, unit, higher_is_better, _present(values), estimate)


def clustered_mean(values: Float[Tensor, "windows predictions"], positions: Sequence[int] | None = None) -> SeriesMean:
    """Mean over all predictions that are not NaN; its standard error treats windows as the sampled units.

    Tokens of a window share their text and so are dependent, and so are neighbouring windows: see `analysis.serial`.
    The mean is a ratio of sums over windows; a window's weight is its number of predictions.
    """
    counts = (~values.isnan()).sum(dim=1).double()
    means = values.double().nan_to_num(0.0).sum(dim=1) / counts.clamp_min(1)
    return series_mean(means.tolist(), counts.tolist(), positions)


def clustered_quantile(
    values: Float[Tensor, "windows predictions"], share: float, positions: Sequence[int] | None = None
) -> SeriesMean:
    """Quantile (in the field `mean`) over all predictions that are not NaN, with dependence as in `clustered_mean`.

    Woodruff (1952), "Confidence Intervals for Medians and Other Position Measures": the share of predictions at most as
    large as the quantile is a mean and has a standard error; the quantiles at the share minus and plus this error are
    one standard error of the quantile away. A single window has no standard error.
    """
    present = values[~values.isnan()].double()
    quantile = float(present.quantile(share))
    below = (values <= quantile).double().masked_fill_(values.isnan(), torch.nan)
    estimate = clustered_mean(below, positions)
    if estimate.stderr is None:
        return replace(estimate, mean=quantile)
    ends = torch.tensor([max(0.0, share - estimate.stderr), min(1.0, share + estimate.stderr)], dtype=torch.double)
    low, high = present.quantile(ends).tolist()
    return replace(estimate, mean=quantile, stderr=(high - low) / 2)


def _present(values: Float[Tensor, "windows predictions"]) -> int:
    return int((~values.isnan()).sum())
