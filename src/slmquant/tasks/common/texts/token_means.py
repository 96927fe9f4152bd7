"""Means and quantiles over the tokens of a text, as metrics whose standard errors know of windows and neighbours."""

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
"""Of perplexity and the divergences; raised when the definition of one changes."""


@dataclass(frozen=True)
class Labels:
    """What all metrics of one text have in common.

    Attributes:
        task: The task, as `str(TaskSpec)`.
        protocol: How the text was cut and read.
        positions: Where each window lies in the text, in windows.
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
        """One figure; its error is that of `error`, but for a factor that the caller has put in."""
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
        """The mean of all values that are not NaN, of which there must be one."""
        found = clustered_mean(values, self.positions)
        return self.metric(name, found.mean, unit, higher_is_better, _present(values), found)

    def quantile(
        self,
        name: str,
        values: Float[Tensor, "windows predictions"],
        share: float,
        unit: str,
        higher_is_better: bool | None,
    ) -> Metric:
        """The quantile of all values that are not NaN, of which there must be one."""
        found = clustered_quantile(values, share, self.positions)
        return self.metric(name, found.mean, unit, higher_is_better, _present(values), found)


def clustered_mean(values: Float[Tensor, "windows predictions"], positions: Sequence[int] | None = None) -> SeriesMean:
    """Mean over all predictions that are not NaN, with those of one window and of its neighbours dependent.

    Tokens of a window share their text, so windows and not tokens are drawn; and so do neighbouring windows: see
    `analysis.serial`. The mean is a ratio of sums over windows, and windows count by their predictions.
    """
    counts = (~values.isnan()).sum(dim=1).double()
    means = values.double().nan_to_num(0.0).sum(dim=1) / counts.clamp_min(1)
    return series_mean(means.tolist(), counts.tolist(), positions)


def clustered_quantile(
    values: Float[Tensor, "windows predictions"], share: float, positions: Sequence[int] | None = None
) -> SeriesMean:
    """Quantile, as the `mean`, over all predictions that are not NaN, with those of a window and neighbours dependent.

    Woodruff (1952), "Confidence Intervals for Medians and Other Position Measures": the share of predictions at most as
    large as the quantile has a standard error, that of a mean; the quantiles so much to either side are one standard
    error of the quantile away. A single window has none.
    """
    present = values[~values.isnan()].double()
    quantile = float(present.quantile(share))
    below = (values <= quantile).double().masked_fill_(values.isnan(), torch.nan)
    found = clustered_mean(below, positions)
    if found.stderr is None:
        return replace(found, mean=quantile)
    ends = torch.tensor([max(0.0, share - found.stderr), min(1.0, share + found.stderr)], dtype=torch.double)
    low, high = present.quantile(ends).tolist()
    return replace(found, mean=quantile, stderr=(high - low) / 2)


def _present(values: Float[Tensor, "windows predictions"]) -> int:
    return int((~values.isnan()).sum())
