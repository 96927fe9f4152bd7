"""The oracle ablation: what rounding of activations costs if a few channels or tokens stay in full precision.

Channels are chosen by their largest magnitude over the very windows that are measured, tokens by their magnitude in the
input at hand: nobody could choose better by magnitude. Channels and tokens drawn at random show what keeping as many
of any kind does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor

from slmquant.diagnosis.quantizers import (
    Choice,
    KeepingQuantizer,
    channels,
    drawn,
    largest,
    largest_tokens,
    random_tokens,
)
from slmquant.diagnosis.subject import Subject
from slmquant.model.computing.activations import ActivationQuantizer
from slmquant.progress import Progress, track
from slmquant.schemes import Scheme
from slmquant.store.experiments import Ablation, AblationCell, Kept

SHARES = (0.001, 0.003, 0.01, 0.03)
"""Shares of channels or tokens that are kept."""
SEEDS = (0, 1, 2)
"""Draws of random channels or tokens."""

Magnitudes = Mapping[str, Float[Tensor, " in"]]
"""First linear of every input → largest magnitude of each of its channels."""


@dataclass(frozen=True)
class _Arm:
    """What is kept, and the choice among the entries of an input, given its name."""

    kept: Kept
    share: float
    seed: int | None
    choice: Callable[[str], Choice]


def run_ablation(subject: Subject, scheme: Scheme, progress: Progress) -> Ablation:
    """Measure what rounding activations costs if some channels or tokens are kept.

    Args:
        subject: The model, quantized to a scheme that rounds activations.
        scheme: The scheme.
        progress: Receives progress updates.

    Raises:
        NumericalError: A divergence is not finite.
    """
    whole = subject.measured(subject.switches.of("activations"))
    arms = list(_arms(subject.magnitudes(progress)))
    cells = [
        AblationCell(
            kept=arm.kept,
            share=arm.share,
            seed=arm.seed,
            divergence=subject.kept(["ablation", arm.kept, arm.share, arm.seed], partial(_measure, subject, arm)),
        )
        for arm in track(arms, f"{scheme}: keep channels or tokens", progress)
    ]
    return Ablation(scheme=str(scheme), whole=whole, cells=tuple(cells))


def _measure(subject: Subject, arm: _Arm) -> Float[Tensor, "windows predictions"]:
    quantizers: dict[str, ActivationQuantizer] = {}
    for linears, quantizer in subject.switches.quantizers.items():
        quantizers |= dict.fromkeys(linears, KeepingQuantizer(quantizer, arm.choice(linears[0])))
    return subject.tokens(subject.switches.of("activations"), quantizers)


def _arms(magnitudes: Magnitudes) -> Iterator[_Arm]:
    for share in SHARES:
        yield _Arm("channels", share, None, partial(_largest_channels, magnitudes, share))
        yield _Arm("tokens", share, None, _at_every_input(largest_tokens(share)))
        for seed in SEEDS:
            yield _Arm("random channels", share, seed, partial(_random_channels, magnitudes, share, seed))
            yield _Arm("random tokens", share, seed, _at_every_input(random_tokens(share, seed)))


def _at_every_input(choice: Choice) -> Callable[[str], Choice]:
    return lambda _name: choice


def _largest_channels(magnitudes: Magnitudes, share: float, name: str) -> Choice:
    return channels(largest(magnitudes[name], share))


def _random_channels(magnitudes: Magnitudes, share: float, seed: int, name: str) -> Choice:
    """Drawn anew for every input."""
    return channels(drawn(len(magnitudes[name]), share, zlib.crc32(f"{seed} {name}".encode())))
