"""The driver: model × method × scheme × statistics to a quantized model, the same way for every method."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.calib.statistics import InputStatistics, Statistic, Statistics
from slmquant.core.affine import QuantizedTensor
from slmquant.errors import NumericalError, RefusedError
from slmquant.methods._base import Rounding, grid_of, static_scale
from slmquant.model.activations import ActivationQuantizer, LastCodes
from slmquant.model.quantized import multiply_in_, replace_linears_, weight_at
from slmquant.model.relations import InputGroup, Relations, discover
from slmquant.model.size import ModelSize, count_parameters, size_of
from slmquant.progress import Progress, Silent, track
from slmquant.schemes import PerGroup, PerTensor, Scheme, WeightSpec

StatisticsProvider = Callable[[Relations, Collection[Statistic]], Statistics]
"""Yields the statistics that are asked for; it is only called where a method or a scheme needs some."""


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model, ready to run, and the codes that it is made of.

    Attributes:
        model: The transformers model in float32, its linears replaced.
        dtype: What its linears multiply in.
        method: Name of the method, or `a+b`.
        scheme: Which numbers it is made of.
        weights: Module name → codes; a tied embedding under the embedding's name alone.
        activation_scales: Module name → calibrated scale of its input, where the scheme has static ones.
        groups: Linears that read the same input and share its quantizer.
        embeddings: Names of the embedding and the head.
        size: What it takes to store.
    """

    model: PreTrainedModel
    dtype: torch.dtype
    method: str
    scheme: Scheme
    weights: Mapping[str, QuantizedTensor]
    activation_scales: Mapping[str, float]
    groups: tuple[InputGroup, ...]
    embeddings: frozenset[str]
    size: ModelSize


@torch.no_grad()
def quantize_(
    model: PreTrainedModel,
    method: str,
    scheme: Scheme,
    provide: StatisticsProvider,
    *,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> QuantizedModel:
    """Quantize `model` in place.

    Args:
        model: A full-precision model in float32; it is consumed.
        method: Name of a method, or `a+b`.
        scheme: Which numbers.
        provide: Where calibration statistics come from.
        dtype: What the linears of the result multiply in.
        progress: Who is told how far it is.

    Raises:
        UnknownNameError: No such method.
        RefusedError: The method cannot do this scheme on this model; the message says why.
        NumericalError: A solver met numbers that are not finite.
    """
    recipe = methods.load(method)
    _refuse(method, recipe.refusal(scheme))
    if scheme.is_full_precision:
        size = size_of(count_parameters(model), {}, frozenset())
        multiply_in_(model, dtype)
        return QuantizedModel(model, dtype, method, scheme, {}, {}, (), frozenset(), size)
    relations = discover(model)
    _refuse(method, recipe.refusal(scheme, relations))
    _refuse(method, _group_refusal(model, relations, scheme))
    parameters = count_parameters(model)
    needs = recipe.needs_for(scheme)
    statistics = provide(relations, needs) if needs else {}
    for transform in recipe.transforms:
        statistics = transform.apply_(model, relations, statistics)
    weights: dict[str, QuantizedTensor] = {}
    activation_scales: dict[str, float] = {}
    if recipe.rounding is not None:
        last = LastCodes()
        for group in track(relations.groups, f"quantize with {recipe.title}", progress or Silent()):
            inputs = statistics.get(group.linears[0])
            weights |= _quantize_group_(model, group, scheme, recipe.rounding, inputs, activation_scales, dtype, last)
        if scheme.embeddings is not None:
            weights |= _quantize_embeddings_(model, relations, scheme.embeddings, recipe.rounding)
    multiply_in_(model, dtype)
    embeddings = frozenset({relations.embedding, *([relations.head] if relations.head else [])})
    size = size_of(parameters, weights, embeddings)
    return QuantizedModel(model, dtype, method, scheme, weights, activation_scales, relations.groups, embeddings, size)


def _refuse(method: str, reason: str | None) -> None:
    if reason is not None:
        raise RefusedError(f"{method}: {reason}")


def _group_refusal(model: PreTrainedModel, relations: Relations, scheme: Scheme) -> str | None:
    if scheme.weights is None or not isinstance(scheme.weights.granularity, PerGroup):
        return None
    size = scheme.weights.granularity.size
    for name in relations.linears:
        in_features = weight_at(model, name).shape[1]
        if size > in_features:
            return f"group size {size} is larger than the {in_features} inputs of {name!r}; use at most {in_features}"
    return None


def _quantize_group_(
    model: PreTrainedModel,
    group: InputGroup,
    scheme: Scheme,
    rounding: Rounding,
    statistics: InputStatistics | None,
    activation_scales: dict[str, float],
    dtype: torch.dtype,
    last: LastCodes,
) -> dict[str, QuantizedTensor]:
    """Quantize the linears that read one input, and that input; record its static scale where it has one."""
    inputs = None
    if (spec := scheme.activations) is not None:
        scale = static_scale(spec, statistics) if spec.static and statistics is not None else None
        inputs = ActivationQuantizer(spec.bits, dtype, scale, last)
        if scale is not None:
            activation_scales.update(dict.fromkeys(group.linears, scale))
    dense = [weight_at(model, name).float() for name in group.linears]
    if scheme.weights is None:
        replace_linears_(model, group.linears, dense, inputs, dtype)
        return {}
    try:
        rounded = _round(dense, scheme.weights, rounding, statistics)
    except NumericalError as error:
        raise NumericalError(f"{', '.join(group.linears)}: {error}") from error
    replace_linears_(model, group.linears, rounded, inputs, dtype)
    return dict(zip(group.linears, rounded, strict=True))


def _round(
    dense: list[Tensor], spec: WeightSpec, rounding: Rounding, statistics: InputStatistics | None
) -> list[QuantizedTensor]:
    """Round weights that share an input: stacked, since rows are independent, unless a tensor has one scale."""
    grid = grid_of(spec)
    if isinstance(spec.granularity, PerTensor):
        return [rounding.round(weight, grid, statistics) for weight in dense]
    stacked = rounding.round(torch.cat(dense), grid, statistics)
    stops = torch.tensor([len(weight) for weight in dense]).cumsum(0).tolist()
    return [stacked.rows(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def _quantize_embeddings_(
    model: PreTrainedModel, relations: Relations, spec: WeightSpec, rounding: Rounding
) -> dict[str, QuantizedTensor]:
    """Round embedding and head in place; a tied head follows its embedding."""
    names = [relations.embedding]
    if relations.head is not None and not relations.tied:
        names.append(relations.head)
    rounded = {}
    for name in names:
        weight = model.get_submodule(name).get_parameter("weight")
        rounded[name] = rounding.round(weight.float(), grid_of(spec), None)
        weight.copy_(rounded[name].dequantize())
    return rounded
