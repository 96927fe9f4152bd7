"""What `slmquant inspect` finds in a model: its anatomy, and figures of its weights and activations, as data.

`Inspection.covariates` has all figures of a weight side by side, for programs that relate them to what quantization
does to it. Ratios are in [0, 1]; the kurtosis of normal numbers is 3.
"""

from __future__ import annotations

from typing import Literal

from pydantic import FiniteFloat

from slmquant.store.anatomy import Anatomy, Frozen, Role
from slmquant.store.record import CalibrationSpec, DataCard, ModelCard

__all__ = [
    "AttentionFacts",
    "DtypeName",
    "InputFacts",
    "Inspection",
    "Lattice",
    "MassiveActivation",
    "OnGrid",
    "Spread",
    "StreamFacts",
    "SuperWeight",
    "WeightFacts",
]

OnGrid = Literal["exactly", "nearly", "moved", "no"]
"""Whether a weight lies on a quantization grid: `exactly`, to the last bits of its dtype; `nearly`, closer than the
same weights in another order; `moved`, exactly but for a factor per row and per column; or `no`."""


DtypeName = Literal["float32", "bfloat16", "float16"]


class Lattice(Frozen):
    """Whether a weight lies on a quantization grid, and on which."""

    on_grid: OnGrid
    type: str | None = None
    """The type: GGUF's name (`Q4_1`) if the grid is one of GGUF's, else a scheme's (`W4A16g64-asym`); None if it cannot
    be told. Of a moved grid, scales of scales are lost: a `Q4_K` is then called `Q4_1`."""
    block: int | None = None
    """Inputs that share a scale."""
    levels: int | None = None
    """Most levels between the ends of a block."""
    fit: FiniteFloat
    """Mean cosine of the distances to the best grid of each block, in turns of its step: 1 is on it."""
    fit_shuffled: FiniteFloat
    """The same with the weight's numbers in random order."""
    z: FiniteFloat
    """Difference of the two in its standard errors."""
    ties: FiniteFloat
    """Share of rows in which the ratio of two neighbouring weights is also that of another row, to the last bits."""
    ties_shuffled: FiniteFloat
    """The same with one of both columns in random order."""


class WeightFacts(Frozen):
    """Figures of one weight matrix."""

    name: str
    layer: int | None
    """Number of its decoder block; None outside of them."""
    role: Role
    rows: int
    """Outputs; of an embedding, its tokens."""
    columns: int
    low: FiniteFloat
    high: FiniteFloat
    rms: FiniteFloat
    kurtosis: FiniteFloat
    outlier_columns: int
    """Columns whose root mean square is more than six times that of the median column."""
    worst_column: FiniteFloat
    """Largest root mean square of a column over that of the median column."""
    dtype: DtypeName
    """The smallest dtype that holds all of its numbers exactly."""
    lattice: Lattice | None
    """None if its rows are too short to tell."""

    @property
    def peak(self) -> float:
        """Largest magnitude over root mean square."""
        return max(-self.low, self.high) / self.rms if self.rms > 0 else 0.0


class SuperWeight(Frozen):
    """A single weight that makes most of a massive output (Yu et al. 2024)."""

    name: str
    row: int
    column: int
    value: FiniteFloat
    output: FiniteFloat
    """The output at the token where it is largest."""
    times_median: FiniteFloat
    """Its magnitude over the median magnitude of the linear's outputs."""
    share: FiniteFloat
    """Part of that output that comes from this weight."""


class Spread(Frozen):
    """How far numbers reach."""

    rms: FiniteFloat
    largest: FiniteFloat
    """Largest magnitude."""
    kurtosis: FiniteFloat

    @property
    def peak(self) -> float:
        """Largest magnitude over root mean square."""
        return self.largest / self.rms if self.rms > 0 else 0.0


class InputFacts(Frozen):
    """Figures of a tensor that linears read.

    A token is an outlier if its norm is more than six times that of the median token of its window. Channels are judged
    by the other tokens, so that one massive token does not make a channel look large.
    """

    linears: tuple[str, ...]
    """The linears that read it."""
    layer: int
    all: Spread
    """Over all tokens."""
    ordinary: Spread
    """Without outlier tokens."""
    outlier_tokens: FiniteFloat
    """Share of the tokens that are outliers."""
    outlier_energy: FiniteFloat
    """Share of the sum of squares that those tokens hold."""
    first_energy: FiniteFloat
    """Share of the sum of squares that the first token of each window holds."""
    outlier_channels: int
    """Channels whose root mean square is more than six times that of the median channel."""
    channel_energy: FiniteFloat
    """Share of the ordinary tokens' sum of squares that those channels hold."""
    worst_channels: tuple[tuple[int, FiniteFloat], ...]
    """The largest channels: index, and root mean square over that of the median channel."""
    effective_rank: FiniteFloat
    """`(Σλ)² / Σλ²` of the second moment of ordinary tokens: the number of equal eigenvalues that would spread so."""
    effective_rank_all: FiniteFloat
    """The same of all tokens."""
    channels: int


class MassiveActivation(Frozen):
    """A channel of the residual stream that is massive at some tokens, after Sun et al. 2024."""

    channel: int
    value: FiniteFloat
    """The largest one."""
    times_median: FiniteFloat
    """Its magnitude over the median magnitude of the layer's output."""
    tokens: tuple[str, ...]
    """Texts of the tokens, the most frequent ones."""
    first: FiniteFloat
    """Share of those tokens that are the first of a window."""
    count: int


class StreamFacts(Frozen):
    """The residual stream behind a decoder block."""

    layer: int
    all: Spread
    median: FiniteFloat
    """Median magnitude."""
    top: tuple[FiniteFloat, ...]
    """The three largest magnitudes."""
    massive: tuple[MassiveActivation, ...]
    """Magnitudes above 100 that are 1000 times the median."""


class AttentionFacts(Frozen):
    """What the heads of a layer give to the first token."""

    layer: int
    first_share: tuple[FiniteFloat, ...]
    """Mean attention of each head on the first token, over later tokens that see it."""
    even_share: FiniteFloat
    """What it would be if every token attended evenly."""

    @property
    def mean(self) -> float:
        """Mean over the heads."""
        return sum(self.first_share) / len(self.first_share)

    @property
    def sink_heads(self) -> int:
        """Heads whose share is above 0.3, the threshold of Gu et al. 2025."""
        return sum(share > 0.3 for share in self.first_share)


class Inspection(Frozen):
    """Everything that an inspection found."""

    slmquant_inspection: Literal[1] = 1
    """Version of these fields."""
    model: str
    """Model source, as given."""
    model_sha256: str
    card: ModelCard
    anatomy: Anatomy
    weights: tuple[WeightFacts, ...] = ()
    text: CalibrationSpec | None = None
    """The windows that activations were measured on; None if they were not."""
    data: DataCard | None = None
    """The text they come from."""
    inputs: tuple[InputFacts, ...] = ()
    stream: tuple[StreamFacts, ...] = ()
    attention: tuple[AttentionFacts, ...] = ()
    """Empty if the architecture computes attention in its own way."""
    super_weights: tuple[SuperWeight, ...] = ()
    remarks: tuple[str, ...] = ()
    """What was not measured, and why."""

    def covariates(self) -> dict[str, dict[str, float]]:
        """Weight → its figures by name, those of its input and of its layer included, as far as they were measured."""
        layers = max(len(self.anatomy.layers) - 1, 1)
        inputs = {name: facts for facts in self.inputs for name in facts.linears}
        sinks = {facts.layer: facts.mean for facts in self.attention}
        found: dict[str, dict[str, float]] = {}
        for weight in self.weights:
            row: dict[str, float] = {
                "rows": weight.rows,
                "columns": weight.columns,
                "parameters": weight.rows * weight.columns,
                "weight_kurtosis": weight.kurtosis,
                "weight_peak": weight.peak,
                "weight_worst_column": weight.worst_column,
            }
            if weight.layer is not None:
                row["depth"] = weight.layer / layers
            if weight.lattice is not None:
                row["weight_grid_fit"] = weight.lattice.fit - weight.lattice.fit_shuffled
            if weight.layer is not None and weight.layer in sinks:
                row["attention_on_first"] = sinks[weight.layer]
            if (facts := inputs.get(weight.name)) is not None:
                row |= {
                    "input_kurtosis": facts.all.kurtosis,
                    "input_kurtosis_ordinary": facts.ordinary.kurtosis,
                    "input_peak": facts.all.peak,
                    "input_peak_ordinary": facts.ordinary.peak,
                    "input_worst_channel": facts.worst_channels[0][1],
                    "input_outlier_channels": facts.outlier_channels,
                    "input_outlier_tokens": facts.outlier_tokens,
                    "input_outlier_energy": facts.outlier_energy,
                    "input_first_energy": facts.first_energy,
                    "input_effective_rank": facts.effective_rank,
                    "input_effective_rank_share": facts.effective_rank / facts.channels,
                }
            found[weight.name] = row
        return found
