"""Finds refusals without loading weights: a small random model with a real one's structure and widths is asked instead.

Refusals depend on architecture, widths and scheme, not on the values of weights, so a few layers and tokens suffice.
Learning is left out, rounding is to nearest, and learned rotations are drawn at random.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from slmquant import formats, methods
from slmquant.boundary import or_none
from slmquant.calib.calibration import FreshCalibration
from slmquant.errors import RefusedError, SlmquantError
from slmquant.methods.common.mixed import specs_of, weight_names
from slmquant.methods.common.parts import Correction, Transform
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.quarot import HadamardRotation
from slmquant.methods.rtn import Nearest
from slmquant.methods.spinquant import LearnedRotation
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import Linear
from slmquant.model.sources.configuration import Configuration
from slmquant.model.structure import Relations
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import Scheme, parse

_TOKENS, _WINDOWS, _WINDOW_TOKENS = 256, 2, 16
_MOST_PARAMETERS = 200_000_000
"""A larger sketch is not made, as it would take too long."""

_Key = tuple[tuple[Transform, ...], Correction | None, str]


@dataclass(frozen=True)
class Sketch:
    """A small random model that stands for a real one."""

    model: PreTrainedModel
    whole: PreTrainedModel
    """The whole model on the meta device, without weights."""
    _made: dict[_Key, QuantizedModel | str] = field(default_factory=dict, init=False)

    @cached_property
    def relations(self) -> Relations:
        """Its structure."""
        return discover(self.model)

    def refusal(self, method: str, scheme: str) -> str | None:
        """Why the method cannot quantize the model to the scheme, as far as it shows without weights."""
        recipe, numbers = methods.load(method), parse(scheme)
        if (reason := recipe.refusal(numbers)) is not None:
            return f"{method}: {reason}"
        if numbers.is_full_precision:
            return None
        if (reason := recipe.refusal(numbers, self.relations)) is not None:
            return f"{method}: {reason}"
        if (reason := self._misnamed(numbers)) is not None:
            return reason
        made = self._quantized(method, recipe, numbers)
        return made if isinstance(made, str) else None

    def format_refusal(self, name: str, method: str, scheme: str) -> str | None:
        """Why the format cannot hold the model that the method makes, as far as it shows without weights."""
        made = self._quantized(method, methods.load(method), parse(scheme))
        if isinstance(made, str):
            return made
        chosen = formats.load(name)
        if (reason := chosen.refusal(made)) is not None:
            return f"{name}: {reason}"
        misfit = next((one for one in chosen.place(made) if one.reason is not None), None)
        return (
            None
            if misfit is None
            else f"{name}: {misfit.name!r} cannot be stored as {misfit.requested}: {misfit.reason}"
        )

    def _misnamed(self, scheme: Scheme) -> str | None:
        """Why a mixture from a file is of another model: weights that it lacks, that are none, or that do not fit."""
        linears = self._whole_linears
        if scheme.table is None or linears is None:
            return None
        try:
            specs_of(scheme, replace(self.relations, linears=linears), self.whole)
        except RefusedError as error:
            return str(error)
        return None

    @cached_property
    def _whole_linears(self) -> tuple[str, ...] | None:
        """The linears of all blocks of the whole model; None if blocks of the sketch have linears that are none."""
        stack = f"{self.relations.blocks[0].rpartition('.')[0]}."
        here, there = (
            tuple(
                name for name, module in model.named_modules() if isinstance(module, Linear) and name.startswith(stack)
            )
            for model in (self.model, self.whole)
        )
        return there if set(here) == set(self.relations.linears) else None

    def _narrowed(self, scheme: Scheme) -> Scheme:
        """A mixture from a file, for the blocks that the sketch has; one type for types that are still to be chosen."""
        here = weight_names(self.relations)
        if scheme.max_bytes is not None:
            return Scheme.of_table(dict.fromkeys(here, scheme.weight_specs[0]))
        if scheme.table is None:
            return scheme
        return Scheme.of_table({name: spec for name, spec in scheme.table if name in here})

    def _quantized(self, method: str, recipe: Recipe, scheme: Scheme) -> QuantizedModel | str:
        """The sketch, quantized with a stand-in for a method; the reason if that is refused."""
        stand_in = _stand_in(recipe)
        key = (stand_in.transforms, stand_in.correction, str(scheme))
        if key not in self._made:
            self._made[key] = self._try(stand_in, scheme)
        made = self._made[key]
        if isinstance(made, str):
            return method + made if made.startswith(":") else made  # as `quantize_` says it
        return replace(made, method=method)

    def _try(self, stand_in: Recipe, scheme: Scheme) -> QuantizedModel | str:
        model = copy.deepcopy(self.model)
        windows = torch.randint(_rows(model), (_WINDOWS, _WINDOW_TOKENS), generator=torch.Generator().manual_seed(0))
        calibration = FreshCalibration(model, windows, torch.float32, Silent())
        try:
            return quantize_(model, "", self._narrowed(scheme), calibration, recipe=stand_in, relations=self.relations)
        except RefusedError as error:
            return str(error)


def sketch(configuration: Configuration) -> Sketch | None:
    """A sketch of a model; None if none can be made of its configuration, or only a large one."""
    config = configuration.config
    whole = or_none(configuration.skeleton)
    if whole is None:
        return None
    return or_none(lambda: _sketch(_shortened(config), whole)) or or_none(lambda: _sketch(config, whole))


def _sketch(config: PreTrainedConfig, whole: PreTrainedModel) -> Sketch | None:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if parameters > _MOST_PARAMETERS:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Sketch(AutoModelForCausalLM.from_config(config, dtype=torch.float32).train(False), whole)
    try:
        _ = made.relations
    except SlmquantError:
        return None
    return made


def _shortened(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with few tokens, and with as many layers as have one of every kind."""
    content = config.to_dict()
    layers = int(config.num_hidden_layers)
    kinds = [value for value in content.values() if isinstance(value, list) and len(value) == layers]
    kept = min(layers, max([2, *(_all_kinds(values) for values in kinds)]))
    content |= {name: value[:kept] for name, value in content.items() if value in kinds}
    content |= {"vocab_size": min(_TOKENS, config.vocab_size), "pad_token_id": None}
    content[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = kept
    return type(config).from_dict(content)


def _all_kinds(values: Sequence[object]) -> int:
    """Length of the shortest beginning of a list that has all its distinct values."""
    return 1 + max(values.index(value) for value in values)


def _rows(model: PreTrainedModel) -> int:
    return int(model.get_input_embeddings().get_parameter("weight").shape[0])


def _stand_in(recipe: Recipe) -> Recipe:
    """A quick recipe that leaves the same things in the model as `recipe`, apart from codes."""
    transforms = tuple(
        HadamardRotation() if isinstance(part, LearnedRotation) else part
        for part in recipe.transforms
        if isinstance(part, LearnedRotation) or not part.learns
    )
    return Recipe(
        title=recipe.title,
        summary=recipe.summary,
        reference=recipe.reference,
        transforms=transforms,
        rounding=None if recipe.solver is None else Nearest(),
        correction=recipe.correction,
    )
