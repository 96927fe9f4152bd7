"""Massive activations of the residual stream, and the single weights that make them.

Sun, Chen, Kolter and Liu, "Massive Activations in Large Language Models" (COLM 2024, arXiv 2402.17762): an activation
is massive if its magnitude is above 100 and about 1000 times the median magnitude of its hidden state. Yu, Wang, Shan,
Reed and Wan, "The Super Weight in Large Language Models" (arXiv 2411.07191): one weight of a `down_proj` makes it.

*Deviations.* A hidden state is the output of a block for one window. Yu et al. find super weights by looking at peaks
of inputs and outputs over layers; here the largest output of a linear counts if it is 1000 times the median output, and
most of it is one product of an input and a weight.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from slmquant.core.moments import Reach, reach
from slmquant.inspection.inputs import spread_of
from slmquant.store.inspected import MassiveActivation, StreamFacts, SuperWeight

__all__ = ["MASSIVE", "TIMES_MEDIAN", "StreamObserver", "SuperWeightObserver"]

MASSIVE, TIMES_MEDIAN = 100.0, 1000.0
_MOST_OF_IT = 0.5
_TOP, _TOKENS = 3, 3


@dataclass
class _Channel:
    """Massive activations of one channel."""

    value: float = 0.0
    times_median: float = 0.0
    tokens: Counter[int] = field(default_factory=Counter)
    first: int = 0


class StreamObserver:
    """Accumulates the figures of the output of one block, window by window.

    Args:
        layer: Number of the block.
        windows: Token ids of all windows, in the order in which they run.
    """

    def __init__(self, layer: int, windows: Int[Tensor, "samples seq"]) -> None:
        self._layer, self._windows = layer, windows
        self._seen = 0
        self._reach = Reach()
        self._medians: list[float] = []
        self._top: list[float] = []
        self._channels: dict[int, _Channel] = {}

    def observe(self, outputs: Float[Tensor, "batch seq hidden"]) -> None:
        """Add the outputs of the next windows."""
        self._reach += reach(outputs)
        for states in outputs.float():
            magnitude = states.abs()
            median = float(magnitude.median())
            self._medians.append(median)
            self._top = sorted([*self._top, *magnitude.flatten().topk(_TOP).values.tolist()], reverse=True)[:_TOP]
            massive = (magnitude > MASSIVE) & (magnitude > TIMES_MEDIAN * median)
            for position, channel in massive.nonzero().tolist():
                self._add(position, channel, float(states[position, channel]), median)
            self._seen += 1

    def facts(self, text_of: Callable[[int], str]) -> StreamFacts:
        """The figures; `text_of` turns a token id into text."""
        return StreamFacts(
            layer=self._layer,
            all=spread_of(self._reach),
            median=statistics.median(self._medians),
            top=tuple(self._top),
            massive=tuple(
                MassiveActivation(
                    channel=number,
                    value=channel.value,
                    times_median=channel.times_median,
                    tokens=tuple(text_of(token) for token, _ in channel.tokens.most_common(_TOKENS)),
                    first=channel.first / channel.tokens.total(),
                    count=channel.tokens.total(),
                )
                for number, channel in sorted(self._channels.items(), key=lambda one: -abs(one[1].value))
            ),
        )

    def _add(self, position: int, number: int, value: float, median: float) -> None:
        channel = self._channels.setdefault(number, _Channel())
        if abs(value) > abs(channel.value):
            channel.value, channel.times_median = value, abs(value) / max(median, torch.finfo(torch.float32).tiny)
        channel.tokens[int(self._windows[self._seen, position])] += 1
        channel.first += position == 0


class SuperWeightObserver:
    """Remembers the largest output of a linear, and which weight makes most of it; call it as a hook after the linear.

    Args:
        name: The linear's name in the model.
        weight: Its weight.
    """

    def __init__(self, name: str, weight: Float[Tensor, "out in"]) -> None:
        self._name, self._weight = name, weight
        self._found: SuperWeight | None = None

    def __call__(self, _linear: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> None:
        """Add the outputs of a call."""
        flat = outputs.flatten(0, -2).float()
        token, row = divmod(int(flat.abs().argmax()), flat.shape[1])
        largest = float(flat[token, row])
        if self._found is not None and abs(largest) <= abs(self._found.output):
            return
        products = self._weight[row].float() * args[0].flatten(0, -2)[token].float()
        column = int((products * largest).argmax())
        self._found = SuperWeight(
            name=self._name,
            row=row,
            column=column,
            value=float(self._weight[row, column]),
            output=largest,
            share=float(products[column]) / largest if largest else 0.0,
            times_median=abs(largest) / max(float(flat.abs().median()), torch.finfo(torch.float32).tiny),
        )

    @property
    def found(self) -> SuperWeight | None:
        """The weight, if the output is massive and one product makes most of it."""
        if self._found is None or self._found.share < _MOST_OF_IT or self._found.times_median < TIMES_MEDIAN:
            return None
        return self._found
