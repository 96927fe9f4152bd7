"""Candidates of the linears of all blocks: rounded, and priced by what errors of their outputs cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedModel

from slmquant.calib.statistics import Statistics
from slmquant.core.affine import QuantizedTensor
from slmquant.methods.common.parts import Rounding, RoundRows, prepared
from slmquant.methods.common.stacked import round_stacked
from slmquant.methods.gptq import Gptq
from slmquant.methods.rtn import Nearest
from slmquant.mixing.candidates import Candidates, Types, storage
from slmquant.mixing.curvature import Curvature, Effect
from slmquant.mixing.extension import alike, extended, representatives
from slmquant.model.linears import weight_at
from slmquant.model.running.trial import Trial
from slmquant.model.structure import InputGroup, Relations
from slmquant.progress import Progress, track

LARGEST_ERROR = 0.2
"""Relative error of a linear's output beyond which its divergence is measured, not predicted: there it may be far more
than the second order (ikawrakow/ik_llama.cpp issue 2414: 22 % were fatal in a model of 0.5B, 13.5 % were not)."""


def round_linears(
    model: PreTrainedModel,
    relations: Relations,
    rounding: Rounding,
    types: Types,
    statistics: Statistics,
    curvatures: MutableMapping[str, Curvature],
    trial: Trial,
    progress: Progress,
    *,
    every: int = 1,
    keep: bool = False,
) -> Candidates:
    """Candidates of the linears of all blocks, with predicted losses; those of large errors are measured.

    Args:
        model: The full-precision model.
        relations: Which linears share an input.
        rounding: Rounds a weight, given the statistics that it needs.
        types: Types of each linear.
        statistics: Statistics of the inputs of each group.
        curvatures: What an error of each linear costs; they are used up, as they take memory.
        trial: Measures.
        progress: Receives progress updates.
        every: How many blocks there are for each that is rounded to every type; losses of the others are estimated
            (`mixing.extension`).
        keep: Whether to keep the codes of all candidates of blocks that are rounded to every type.
    """
    linears = {name: types[name] for name in relations.linears}
    tries = _Tries(model, rounding, linears, statistics, curvatures, trial, Candidates.of(linears), keep)
    chosen = representatives(linears, relations.blocks, every)
    whole = [group for group in relations.groups if not chosen.isdisjoint(group.linears)]
    if len(whole) == len(relations.groups):
        for group in track(relations.groups, "try types", progress):
            tries.in_every_type_(group)
            tries.forget_(group)
        return tries.found
    nearest = {
        name: effects
        for group in track(relations.groups, "round to nearest", progress)
        for name, effects in tries.nearest(group).items()
    }
    anchors = _anchors(linears, nearest)
    rough: dict[str, dict[str, float]] = {}
    for group in track(relations.groups, "try types", progress):
        quick = tries.in_one_type_(group, anchors, sample=group not in whole)
        for name, loss in quick.items():
            least = nearest[name][anchors[name]].cost
            share = loss / least if least > 0 else 1.0
            rough[name] = {kind: share * effect.cost for kind, effect in nearest[name].items()}
        if group in whole:
            tries.in_every_type_(group)
        tries.forget_(group)
    known = {name: tries.found.losses[name] for group in whole for name in group.linears}
    losses, tries.found.error = extended(known, rough, relations.blocks)
    tries.found.losses = {name: losses[name] for name in linears}
    return tries.found


@dataclass
class _Tries:
    """Rounds the linears of one group after the other."""

    model: PreTrainedModel
    rounding: Rounding
    types: Types
    statistics: Statistics
    curvatures: MutableMapping[str, Curvature]
    trial: Trial
    found: Candidates
    keep: bool

    def nearest(self, group: InputGroup) -> dict[str, dict[str, Effect]]:
        """What rounding to nearest does in every type, with sizes relative to the linear's output."""
        dense, effects = self._dense(group), dict[str, dict[str, Effect]]()
        sizes = {name: self.curvatures[name].size(weight) for name, weight in dense.items()}
        for name, kind, codes in self._rounded(dense, self.types, prepared(Nearest(), None)):
            effect = self.curvatures[name].effect(codes.dequantize() - dense[name])
            effects.setdefault(name, {})[kind] = effect._replace(size=effect.size / sizes[name])
        return effects

    def in_one_type_(self, group: InputGroup, anchors: Mapping[str, str], *, sample: bool) -> dict[str, float]:
        """Predicted losses of the linears in one type each, with scales that are not searched.

        Args:
            group: The linears.
            anchors: Linear → its type.
            sample: Whether the codes serve to measure classes.
        """
        dense, losses = self._dense(group), dict[str, float]()
        quick = replace(self.rounding, scales="range") if isinstance(self.rounding, Gptq) else self.rounding
        rows = prepared(quick, self.statistics.get(group.linears[0]))
        for name, _, codes in self._rounded(dense, {name: [anchors[name]] for name in group.linears}, rows):
            losses[name] = self.curvatures[name].effect(codes.dequantize() - dense[name]).cost
            if sample:
                self.found.sample(name, codes, losses[name])
        return losses

    def in_every_type_(self, group: InputGroup) -> None:
        """Add the candidates of a group."""
        dense = self._dense(group)
        sizes = {name: self.curvatures[name].size(weight) for name, weight in dense.items()}
        rows = prepared(self.rounding, self.statistics.get(group.linears[0]))
        for name, kind, codes in self._rounded(dense, self.types, rows):
            effect = self.curvatures[name].effect(codes.dequantize() - dense[name])
            if effect.size > LARGEST_ERROR * sizes[name]:
                self.found.measured.add((name, kind))
                self.found.add(name, kind, codes, float(self.trial.divergence({name: codes}).mean()), self.keep)
            else:
                self.found.sample(name, codes, effect.cost)
                self.found.add(name, kind, codes, effect.cost, self.keep)

    def forget_(self, group: InputGroup) -> None:
        """Free the memory of what errors of a group cost."""
        for name in group.linears:
            del self.curvatures[name]

    def _dense(self, group: InputGroup) -> dict[str, Tensor]:
        return {name: weight_at(self.model, name).float() for name in group.linears}

    def _rounded(
        self, dense: Mapping[str, Tensor], types: Types, rows: RoundRows
    ) -> Iterator[tuple[str, str, QuantizedTensor]]:
        """Every linear in every type."""
        for kind in dict.fromkeys(kind for name in dense for kind in types[name]):
            weights = {name: weight for name, weight in dense.items() if kind in types[name]}
            for name, codes in round_stacked(weights, dict.fromkeys(weights, storage(kind)), rows).items():
                yield name, kind, codes


def _anchors(types: Types, nearest: Mapping[str, Mapping[str, Effect]]) -> dict[str, str]:
    """Linear → the type that all of its kind are rounded to: the one of most loss that is not too large to predict."""
    anchors: dict[str, str] = {}
    for names in alike(types):
        sums = {kind: sum(nearest[name][kind].cost for name in names) for kind in types[names[0]]}
        small = [kind for kind in sums if all(nearest[name][kind].size <= LARGEST_ERROR for name in names)]
        anchor = max(small, key=sums.__getitem__) if small else min(sums, key=sums.__getitem__)
        anchors |= dict.fromkeys(names, anchor)
    return anchors
