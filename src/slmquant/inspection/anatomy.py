"""Anatomy of a model: parameters by role, and their bytes under each scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

import torch
from transformers import PreTrainedModel

from slmquant.errors import RefusedError
from slmquant.inspection.layers import is_norm, layer_facts
from slmquant.inspection.roles import roles_of
from slmquant.methods.common.mixed import misfit, specs_of
from slmquant.model.compatibility.context import context_limit
from slmquant.model.computing.grids import stored_bits, unsupported
from slmquant.model.running.trial import stored_weight
from slmquant.model.structure import Relations
from slmquant.schemes import Scheme
from slmquant.schemes.scheme import FULL_PRECISION_BITS, WeightSpec
from slmquant.store.anatomy import Anatomy, Role, RoleSize, SchemeSize


@dataclass(frozen=True)
class _Parameter:
    """A parameter of a model, tied ones once.

    Attributes:
        name: Its name.
        role: Its role.
        elements: Its number of elements.
        weight: Module that a scheme stores it under; None if every scheme leaves it in 16 bits.
    """

    name: str
    role: Role
    elements: int
    weight: str | None


def check_scheme(scheme: Scheme) -> None:
    """Refuse a scheme that no method rounds to, before a model is loaded.

    Raises:
        RefusedError: The scheme has a type that slmquant cannot round to.
    """
    if (reason := unsupported(scheme)) is not None:
        raise RefusedError(reason)


@torch.no_grad()
def anatomy_of(model: PreTrainedModel, relations: Relations, schemes: Sequence[Scheme]) -> Anatomy:
    """The anatomy of a model, with sizes under 16 bits and under each of the schemes.

    Raises:
        RefusedError: A scheme is a mixture that does not fit the model.
    """
    roles = roles_of(model, relations)
    parameters = _parameters(model, relations, {name: role for name, (role, _) in roles.items()})
    embedding = model.get_input_embeddings().get_parameter("weight")
    wanted = {str(scheme): scheme for scheme in (Scheme(), *schemes)}
    specs = {name: specs_of(scheme, relations, model) for name, scheme in wanted.items()}
    bits = {name: _bits(model, parameters, chosen) for name, chosen in specs.items()}
    elements = sum(parameter.elements for parameter in parameters)
    return Anatomy(
        architecture=model.config.model_type,
        parameters=elements,
        hidden=embedding.shape[1],
        vocabulary=embedding.shape[0],
        context=context_limit(model.config),
        tied=relations.tied,
        norms=tuple(dict.fromkeys(type(module).__name__ for module in model.modules() if is_norm(module))),
        roles=tuple(_role_size(role, parameters, bits) for role in get_args(Role) if _has(parameters, role)),
        schemes=tuple(
            SchemeSize(
                scheme=name,
                stored_bytes=-(-sum(each.values()) // 8),
                bpw=sum(each.values()) / elements,
                remark=_remark(model, specs[name]),
            )
            for name, each in bits.items()
        ),
        layers=layer_facts(model, relations, roles),
    )


def _parameters(model: PreTrainedModel, relations: Relations, roles: Mapping[str, Role]) -> list[_Parameter]:
    ends: dict[str, Role] = {relations.embedding: "embedding"}
    if relations.head is not None and not relations.tied:
        ends[relations.head] = "head"
    found = []
    for name, parameter in model.named_parameters():
        module, _, part = name.rpartition(".")
        role = ends.get(module) or roles.get(module)
        weight = module if role is not None and part == "weight" else None
        if role is None:
            role = "norm" if is_norm(model.get_submodule(module)) else "other"
        found.append(_Parameter(name, role, parameter.numel(), weight))
    return found


def _has(parameters: Sequence[_Parameter], role: Role) -> bool:
    return role in ("embedding", "head") or any(parameter.role == role for parameter in parameters)


def _bits(model: PreTrainedModel, parameters: Sequence[_Parameter], specs: Mapping[str, WeightSpec]) -> dict[str, int]:
    """Parameter → bits that it takes."""
    of_shape = cache(stored_bits)
    found = {}
    for parameter in parameters:
        spec = None if parameter.weight is None else specs.get(parameter.weight)
        if spec is None or parameter.weight is None:
            found[parameter.name] = parameter.elements * FULL_PRECISION_BITS
        else:
            found[parameter.name] = of_shape(spec, *stored_weight(model, parameter.weight).shape)
    return found


def _role_size(role: Role, parameters: Sequence[_Parameter], bits: Mapping[str, Mapping[str, int]]) -> RoleSize:
    members = [parameter for parameter in parameters if parameter.role == role]
    return RoleSize(
        role=role,
        tensors=len(members),
        parameters=sum(parameter.elements for parameter in members),
        stored_bytes={
            scheme: -(-sum(each[parameter.name] for parameter in members) // 8) for scheme, each in bits.items()
        },
    )


def _remark(model: PreTrainedModel, specs: Mapping[str, WeightSpec]) -> str | None:
    """The first weight that its storage does not fit, and how many more there are; None if there is none."""
    reasons = {
        name: reason
        for name, spec in specs.items()
        if (reason := misfit(int(stored_weight(model, name).shape[1]), spec)) is not None
    }
    if not reasons:
        return None
    first, more = next(iter(reasons)), len(reasons) - 1
    return f"does not fit {first!r}{f' and {more} more' if more else ''}: {reasons[first]}"
