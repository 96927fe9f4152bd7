"""Sentences and words about an inspection."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from slmquant.report._columns import significant
from slmquant.store.inspected import Inspection, Lattice

__all__ = ["MEANINGS", "grid_words", "of_layers", "percent", "sentences"]

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "kurtosis": "Mean fourth power over the square of the mean square: 3 for normal numbers, more with outliers.",
        "peak": "Largest magnitude over root mean square.",
        "largest column, largest channel": "Root mean square over that of the median column or channel.",
        "outlier": "A column or channel more than six times the median, a token whose norm is.",
        "ordinary tokens": "All tokens but outliers; channels are judged by them.",
        "effective rank": "(Σλ)² / Σλ² of the second moment of ordinary tokens: how many equal directions they fill.",
        "massive": "Magnitude above 100 and 1000 times the median of the layer's output (Sun et al. 2024).",
        "sink head": "Mean attention on the first token above 0.3 (Gu et al. 2025).",
        "super weight": "One weight that makes most of a massive output (Yu et al. 2024).",
        "fit": "Mean cosine of the distances to a block's best grid, in turns of its step: 1 on it. Beside it, the "
        "same for the weight's numbers in random order.",
        "repeated ratios": "Rows in which the ratio of two neighbouring weights is also that of another row, to the "
        "last bits. Rounded weights keep such ratios when rows and columns are scaled.",
    }
)
"""What the words of the tables mean."""


def percent(share: float) -> str:
    """A share in per cent, with three digits at most."""
    return f"{100 * share:.3g} %"


def of_layers(numbers: Sequence[int]) -> str:
    """`0-3, 5`."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def grid_words(lattice: Lattice) -> str:
    """`exactly on Q4_1`, `no`."""
    if lattice.on_grid == "no":
        return "no"
    kind = lattice.type or ("some grid" if lattice.block is None else f"some grid of {lattice.block} inputs")
    return {
        "exactly": f"exactly on {kind}",
        "nearly": f"nearly on {kind}",
        "moved": f"{kind}, its rows and columns scaled",
    }[lattice.on_grid]


def sentences(found: Inspection) -> list[str]:
    """What is remarkable about a model, a sentence each."""
    anatomy = found.anatomy
    tied = "embedding and head are one" if anatomy.tied else "embedding and head are two"
    told = [
        f"{found.model}: {anatomy.architecture}, {anatomy.parameters / 1e6:.4g} M parameters in {len(anatomy.layers)} "
        f"layers of {anatomy.hidden} channels; {percent(anatomy.embedding_share)} of them in {anatomy.vocabulary:,} "
        f"token vectors ({tied}).",
        f"Weights: {found.card.provenance}.",
    ]
    on_grids = [weight for weight in found.weights if weight.lattice is not None and weight.lattice.on_grid != "no"]
    if on_grids:
        kinds = dict.fromkeys(grid_words(one.lattice) for one in on_grids if one.lattice is not None)
        told.append(
            f"{len(on_grids)} of {len(found.weights)} weights come from a quantization grid: {'; '.join(kinds)}."
        )
    elif found.weights:
        told.append("No weight lies on a quantization grid.")
    if massive := {stream.layer for stream in found.stream if stream.massive}:
        channels = list(dict.fromkeys(one.channel for stream in found.stream for one in stream.massive))
        named = ", ".join(map(str, channels[:3])) + (", ..." if len(channels) > 3 else "")
        word = "channel" if len(channels) == 1 else "channels"
        told.append(f"Massive activations behind layers {of_layers(sorted(massive))}, in {word} {named}.")
    elif found.stream:
        told.append("No activation of the residual stream is massive.")
    if found.attention:
        heads = sum(len(facts.first_share) for facts in found.attention)
        sinks = sum(facts.sink_heads for facts in found.attention)
        share = statistics.fmean(facts.mean for facts in found.attention)
        told.append(
            f"{sinks} of {heads} heads are sinks; on average {percent(share)} of attention is on the first token."
        )
    if found.inputs:
        worst = max(found.inputs, key=lambda facts: facts.all.peak)
        told.append(
            f"The input with the largest peak is that of {worst.linears[0]}: {significant(worst.all.peak)} times its "
            f"root mean square, {significant(worst.ordinary.peak)} times without outlier tokens."
        )
    if found.text is not None and found.data is not None and found.inputs:
        told.append(
            f"Activations on {found.text.num_samples} windows of {found.text.seq_len} tokens of {found.data.name}, "
            f"seed {found.text.seed}."
        )
    return [*told, *found.remarks]
