"""Measured swaps: changes of a chosen mixture that predictions do not decide are tried in the model.

Each is compared with the mixture so far, window by window, on text that no type was chosen on, and accepted only if it
gains more than twice the standard error of the mean difference. Whoever tries many swaps accepts some by luck; so the
mixture that they end in is compared with the one before on the gate, which chose none of them, and kept only if it is
better there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.calib.statistics import Statistics, embedding_inputs
from slmquant.calib.texts import Texts
from slmquant.core.affine import QuantizedTensor
from slmquant.methods.common.parts import Rounding
from slmquant.methods.common.stacked import round_stacked
from slmquant.mixing.candidates import storage
from slmquant.mixing.choose import Room
from slmquant.mixing.extension import kind_of
from slmquant.mixing.proposals import Chosen, Proposal
from slmquant.model.computing.grids import grid_of
from slmquant.model.computing.modes import ComputeMode
from slmquant.model.running.trial import Trial, stored_weight
from slmquant.model.structure import Relations
from slmquant.progress import Progress, track
from slmquant.store.record import Budget

MOST_TRIES: Mapping[Budget, int] = MappingProxyType({"fast": 0, "paper": 16})
"""Number of swaps that are measured; rounding the mixture first takes a minute or two, which `fast` cannot spare."""
_BEYOND = 2.0
"""Standard errors that a swap has to gain."""
_MOST_TOLD = 4


class Difference(BaseModel):
    """Mean change of the divergence, in nats per token, over windows."""

    model_config = ConfigDict(frozen=True)

    mean: float
    stderr: float

    @classmethod
    def of(cls, before: Float[Tensor, " windows"], after: Float[Tensor, " windows"]) -> Difference:
        """The paired difference of two mixtures on the same windows."""
        change = (after - before).double()
        return cls(mean=float(change.mean()), stderr=float(change.std()) / math.sqrt(len(change)))

    def __str__(self) -> str:
        return f"{self.mean:+.2g} ± {self.stderr:.1g}"


class Swap(BaseModel):
    """A swap that was measured.

    Attributes:
        what: The change in words.
        types: Weight → its new type.
        predicted: Predicted change.
        measured: Measured change.
        accepted: Whether it gained enough.
    """

    model_config = ConfigDict(frozen=True)

    what: str
    types: dict[str, str]
    predicted: Difference
    measured: Difference
    accepted: bool

    def __str__(self) -> str:
        verdict = "accepted" if self.accepted else "refused"
        return f"{self.what}: {self.measured} nats, predicted {self.predicted}; {verdict}"


class Swaps(BaseModel):
    """What swaps of a mixture came to.

    Attributes:
        tried: The swaps, in the order in which they were measured.
        before: Divergence of the mixture without them on the gate, in nats; None if none was accepted.
        gate: What the accepted ones change on the gate; None if there are none.
    """

    model_config = ConfigDict(frozen=True)

    tried: tuple[Swap, ...] = ()
    before: float | None = None
    gate: Difference | None = None

    @property
    def types(self) -> dict[str, str]:
        """Weight → its new type, of all that is kept; empty if the gate refused it."""
        if self.gate is None or self.gate.mean >= 0:
            return {}
        return {name: kind for swap in self.tried if swap.accepted for name, kind in swap.types.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided, a line for each swap."""
        if not self.tried:
            return ()
        accepted = sum(swap.accepted for swap in self.tried)
        summary = f"swaps of types: {len(self.tried)} measured, {accepted} accepted"
        if self.before is not None and self.gate is not None:
            after = self.before + self.gate.mean
            verdict = "kept" if self.types else "given up"
            summary += f"; on text set aside {self.before:.5f} before, {after:.5f} after ({self.gate}), {verdict}"
        return (summary, *map(str, self.tried))


@dataclass(frozen=True)
class Tries:
    """Where swaps are measured.

    Attributes:
        model: The full-precision model; it is unchanged afterwards.
        relations: Its relations.
        rounding: Rounds a weight.
        statistics: What the rounding needs.
        texts: Windows to measure on.
        mode: What products are computed in.
    """

    model: PreTrainedModel
    relations: Relations
    rounding: Rounding
    statistics: Statistics
    texts: Texts
    mode: ComputeMode

    @torch.no_grad()
    def measure(
        self, chosen: Chosen, proposals: Sequence[Proposal], room: Room, most: int, progress: Progress
    ) -> Swaps:
        """Measure swaps of a mixture.

        Args:
            chosen: The mixture.
            proposals: Swaps of it, the most promising first; at least one.
            room: Bytes of each weight, and how many there may be.
            most: Most swaps to measure.
            progress: Receives progress updates.
        """
        progress.start("round the mixture", None)
        first = codes = self._round(chosen)
        windows = torch.cat([self.texts.gate, self.texts.swaps])
        gate, trial = Trial(self.model, windows, self.mode).split(len(self.texts.gate))
        types, now, tried = dict(chosen), trial.divergence(codes), list[Swap]()
        for proposal in track(proposals[:most], "measure swaps", progress):
            changes = {name: kind for name, kind in proposal.types.items() if kind != types[name]}
            if not changes or not room.holds(types | changes):  # an accepted swap has taken what it needs
                continue
            new = codes | self._round(changes)
            found = trial.divergence(new)
            measured = Difference.of(now, found)
            accepted = measured.mean < -_BEYOND * measured.stderr
            predicted = Difference(mean=proposal.cost, stderr=proposal.error)
            swap = Swap(
                what=described(types, changes), types=changes, predicted=predicted, measured=measured, accepted=accepted
            )
            tried.append(swap)
            if accepted:
                types, codes, now = types | changes, new, found
        if types == chosen:
            return Swaps(tried=tuple(tried))
        progress.start("judge the swaps", None)
        before = gate.divergence(first)
        return Swaps(
            tried=tuple(tried),
            before=float(before.mean()),
            gate=Difference.of(before, gate.divergence(codes)),
        )

    def _round(self, types: Chosen) -> dict[str, QuantizedTensor]:
        """Codes of some weights."""
        found: dict[str, QuantizedTensor] = {}
        for group in self.relations.groups:
            dense = {name: stored_weight(self.model, name).float() for name in group.linears if name in types}
            specs = {name: storage(types[name]) for name in dense}
            inputs = self.statistics.get(group.linears[0])
            found |= round_stacked(dense, specs, partial(self.rounding.round, statistics=inputs))
        for name in [name for name in types if name not in found]:
            inputs = embedding_inputs(name, self.relations, self.statistics)
            grid = grid_of(storage(types[name]))
            found[name] = self.rounding.round(stored_weight(self.model, name).float(), grid, inputs)
        return found


def described(old: Chosen, new: Chosen) -> str:
    """A change of types in words: `3 q_proj from IQ4_NL to Q5_0, 1 up_proj from Q5_0 to IQ4_NL`."""
    moves = Counter((kind_of(name), old[name], kind) for name, kind in new.items())
    told = [f"{count} {kind} from {before} to {after}" for (kind, before, after), count in moves.most_common()]
    if len(told) <= _MOST_TOLD:
        return ", ".join(told)
    return f"{', '.join(told[: _MOST_TOLD - 1])}, and {len(told) - _MOST_TOLD + 1} more such changes"
