"""The driver: turns model, method, scheme and calibration into a quantized model, the same way for every method."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.calib.calibration import Calibration, FreshCalibration
from slmquant.calib.statistics import Statistics, embedding_inputs
from slmquant.errors import RefusedError
from slmquant.methods.common.parts import Rounding
from slmquant.methods.common.recipe import Recipe, static_scale
from slmquant.methods.common.solver import Solver
from slmquant.methods.common.work import Work
from slmquant.model.computing import kv_cache
from slmquant.model.computing.assembly import Assembly
from slmquant.model.computing.grids import grid_of
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.size import count_parameters
from slmquant.model.structure import InputGroup, Relations
from slmquant.progress import Progress, Silent
from slmquant.schemes import PerGroup, Scheme
from slmquant.store.record import Budget


@torch.no_grad()
def quantize_(
    model: PreTrainedModel,
    method: str,
    scheme: Scheme,
    calibration: Calibration,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    budget: Budget = "fast",
    progress: Progress | None = None,
    recipe: Recipe | None = None,
    relations: Relations | None = None,
    dense: dict[str, Tensor] | None = None,
) -> QuantizedModel:
    """Quantize `model` in place.

    Args:
        model: A full-precision model in float32; it is modified and must not be used afterwards.
        method: Name of a method, or `a+b`.
        scheme: Number formats of the result.
        calibration: Calibration data for the method.
        dtype: Dtype that the linears of the result multiply in.
        seed: Seed of all random numbers of the method.
        budget: Upper limit on the cost of learning.
        progress: Receives progress updates.
        recipe: A recipe that has no registered name, e.g. a method with other settings; `method` is then its name in
            the result. None to look the method up.
        relations: The model's structure, if it is known already; None to discover it.
        dense: Receives every weight that codes take the place of, as all transforms left it, by module name.

    Raises:
        UnknownNameError: There is no such method.
        RefusedError: The method does not support this scheme on this model; the message says why.
        NumericalError: A solver met NaN or infinity.
    """
    recipe = recipe or methods.load(method)
    _refuse(method, recipe.refusal(scheme))
    if scheme.is_full_precision:
        return Assembly(model, scheme, count_parameters(model), (), dtype).finish_(method, (), frozenset())
    relations = relations or discover(model)
    _refuse(method, recipe.refusal(scheme, relations))
    _refuse(method, _group_refusal(model, relations, scheme))
    if scheme.kv is not None:
        _refuse(method, kv_cache.refusal(model))
    parameters = count_parameters(model)
    work = Work(model, relations, scheme, calibration, dtype, seed, budget, progress or Silent())
    work.notes.extend(recipe.remarks)
    if scheme.weights is not None and (left := _not_reached(model, relations)) is not None:
        work.notes.append(left)
    _ = work.specs  # raises RefusedError for a mixture that does not fit, before anything is changed
    tuner = None if recipe.tuning is None else recipe.tuning.begin(work)
    quantization = _Quantization(recipe, work, dense)
    quantization.transform_()
    assembly = Assembly(model, scheme, parameters, work.online, dtype)
    quantization.round_(assembly)
    embeddings = frozenset({relations.embedding, *([relations.head] if relations.head else [])})
    quantized = assembly.finish_(method, relations.groups, embeddings, work.notes)
    return quantized if tuner is None else tuner.tune_(quantized, work)


class _Quantization:
    """State of the quantization of one model."""

    def __init__(self, recipe: Recipe, work: Work, dense: dict[str, Tensor] | None = None) -> None:
        self.recipe, self.work, self.dense = recipe, work, dense
        needs = recipe.needs_for(work.scheme)
        self._statistics: Statistics = work.calibration.statistics(work.relations, needs) if needs else {}

    def transform_(self) -> None:
        """Apply the transforms in order; capture statistics again after a transform that invalidates them."""
        work = self.work
        for transform in self.recipe.transforms:
            self._statistics = transform.apply_(work, self._statistics)
            if transform.recaptures and (needs := self.recipe.needs_after(transform, work.scheme)):
                fresh = FreshCalibration(work.model, work.calibration.windows, work.dtype, work.progress)
                self._statistics = fresh.statistics(work.relations, needs)

    def round_(self, assembly: Assembly) -> None:
        """Round the weights and install the codes in the model, one group of linears after the other."""
        solver, work = self.recipe.solver, self.work
        if solver is None:
            return
        if work.scheme.rounds_embeddings:  # before the blocks, so that they see the inputs of the final model
            self._round_embeddings_(solver.embeddings, assembly)
        for group, weights in solver.solve(self.recipe.title, work, self._statistics):
            if self.dense is not None:
                self.dense |= {name: weight_at(work.model, name).detach() for name in group.linears}
            assembly.install_group_(group.linears, weights, self._input_scale(group, solver, assembly.clip))

    def _input_scale(self, group: InputGroup, solver: Solver, clip: float) -> float | None:
        """The calibrated input scale of a group; None unless the scheme has static activation scales."""
        spec = self.work.scheme.activations
        if spec is None or not spec.static:
            return None
        return static_scale(spec, solver.remaining(self._statistics[group.linears[0]]), clip)

    def _round_embeddings_(self, rounding: Rounding, assembly: Assembly) -> None:
        """Round the embedding and the head in place; a tied head shares the codes of its embedding."""
        relations = self.work.relations
        names = dict.fromkeys((relations.embedding, *([relations.head_weight] if relations.head_weight else [])))
        for name in names:
            if name not in self.work.specs:
                continue
            weight = self.work.model.get_submodule(name).get_parameter("weight")
            inputs = embedding_inputs(name, relations, self._statistics)
            codes = rounding.round(weight.float(), grid_of(self.work.specs[name]), inputs)
            if self.dense is not None:
                self.dense[name] = weight.detach().clone()
            assembly.install_embedding_(name, codes)


def _refuse(method: str, reason: str | None) -> None:
    if reason is not None:
        raise RefusedError(f"{method}: {reason}")


def _group_refusal(model: PreTrainedModel, relations: Relations, scheme: Scheme) -> str | None:
    inputs: dict[str, int] = {}
    if scheme.table is not None:
        return None  # `Work.specs` looks at each weight
    if scheme.weights is not None:
        inputs |= {name: weight_at(model, name).shape[1] for name in relations.linears}
    if scheme.embeddings is not None:
        inputs[relations.embedding] = model.get_input_embeddings().get_parameter("weight").shape[1]
    spec = scheme.weights or scheme.embeddings
    if spec is None or not isinstance(spec.granularity, PerGroup):
        return None
    size = spec.granularity.size
    for name, in_features in inputs.items():
        if size > in_features:
            return f"group size {size} is larger than the {in_features} inputs of {name!r}; use at most {in_features}"
    return None


def _not_reached(model: PreTrainedModel, relations: Relations) -> str | None:
    """Note about block weights left unquantized (e.g. fused experts), or None."""
    linears = {f"{name}.weight" for name in relations.linears}
    others = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and name not in linears and name.startswith(tuple(f"{b}." for b in relations.blocks))
    }
    if not others:
        return None
    share, largest = sum(others.values()) / count_parameters(model), max(others, key=others.__getitem__)
    return f"{share:.1%} of the weights stay in 16 bits: they lie in blocks and not in linears, as {largest!r} does"
