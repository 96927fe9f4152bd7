"""Number format of each weight of a model: the same for all linears, or types assigned by a mixture."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import get_args

from transformers import PreTrainedModel

from slmquant.errors import RefusedError, SchemeError
from slmquant.methods.common.gguf_roles import roles_of
from slmquant.model.linears import Linear, weight_at
from slmquant.model.structure import Relations
from slmquant.schemes.mixture_file import WeightType
from slmquant.schemes.mixtures import MIXTURES, MixtureName
from slmquant.schemes.numbers import GgufName, GgufType, PerGroup
from slmquant.schemes.scheme import Scheme, WeightSpec, gguf_spec


def specs_of(scheme: Scheme, relations: Relations, model: PreTrainedModel) -> Mapping[str, WeightSpec]:
    """Number formats of linears, embedding and head by module name, except for those left in 16 bits.

    Raises:
        RefusedError: The scheme is a mixture, and no linear of the model has a role that it knows; or it comes from a
            file that names other weights than the model has; or a type does not fit a weight; or its types are still
            to be chosen.
    """
    if scheme.max_bytes is not None:
        raise RefusedError(f"{scheme} names no types yet; `slmquant mixture MODEL --max-bytes ...` chooses them")
    if scheme.table is not None:
        return _listed(scheme.table, relations, model)
    if scheme.mixture is not None:
        return _dealt(scheme.mixture, relations, model)
    specs: dict[str, WeightSpec] = {}
    if scheme.weights is not None:
        specs |= dict.fromkeys(relations.linears, scheme.weights)
    if scheme.embeddings is not None:
        specs |= dict.fromkeys(filter(None, (relations.embedding, relations.head_weight)), scheme.embeddings)
    for name, spec in specs.items():
        strict = isinstance(spec.format, GgufType) and spec.format.needs_whole_rows
        if strict and (reason := misfit(_row(model, name), spec)) is not None:
            raise RefusedError(f"{spec.format.name} does not hold {name!r}: {reason}")
    return specs


def _listed(
    table: Sequence[tuple[str, WeightSpec | None]], relations: Relations, model: PreTrainedModel
) -> Mapping[str, WeightSpec]:
    """The storages of a mixture from a file, checked against the model."""
    storages = dict(table)
    expected = weight_names(relations)
    if unknown := storages.keys() - set(expected):
        near = difflib.get_close_matches(min(unknown), expected, n=1)
        raise RefusedError(
            f"the mixture names {min(unknown)!r}, which is no linear of a block, embedding or head of this model"
            f"{f'; did you mean {near[0]!r}?' if near else ''}"
        )
    if missing := [name for name in expected if name not in storages]:
        raise RefusedError(
            f"the mixture has no type for {missing[0]!r}{f' and {len(missing) - 1} more' if missing[1:] else ''}; "
            "name every weight"
        )
    if plain := [name for name in relations.linears if storages[name] is None]:
        raise RefusedError(
            f"the mixture leaves {plain[0]!r} in 16 bits, which only embedding and head may stay in; use e.g. Q8_0"
        )
    chosen = {name: spec for name, spec in storages.items() if spec is not None}
    for name, spec in chosen.items():
        if (reason := misfit(_row(model, name), spec)) is not None:
            raise RefusedError(f"the mixture stores {name!r} as {Scheme(spec)}, but {reason}")
    return chosen


def misfit(row: int, spec: WeightSpec) -> str | None:
    """Why a storage does not fit a weight with `row` inputs; None if it does."""
    if isinstance(spec.format, GgufType):
        if row % spec.format.row_multiple == 0:
            return None
        fitting = ", ".join(name for name in get_args(GgufName) if row % GgufType(name).row_multiple == 0)
        advice = f"types that fit: {fitting}" if fitting else "no type of GGUF fits"
        return f"its {row} inputs are not a multiple of {spec.format.row_multiple}; {advice}"
    if isinstance(spec.granularity, PerGroup) and spec.granularity.size > row:
        return f"it has only {row} inputs; use groups of at most {row}"
    return None


def described(scheme: Scheme, relations: Relations, model: PreTrainedModel) -> Mapping[str, WeightType]:
    """The type of every weight of a model under a scheme, with its role in mixtures as the reason, for a file.

    Raises:
        SchemeError: The scheme is not about weights alone.
        RefusedError: As for `specs_of`.
    """
    if scheme.activations is not None or scheme.kv is not None or scheme.special is not None:
        raise SchemeError(f"{scheme} is not about weights alone, as a mixture is; use e.g. Q4_K_M, Q4_0E8 or W4A16g64")
    specs, roles = specs_of(scheme, relations, model), roles_of(relations)

    def why(name: str) -> str:
        if name in roles:
            role, block = roles[name]
            return f"block {block}" if role == "other" else f"{role} of block {block}"
        return "embedding and head" if name == relations.embedding == relations.head_weight else "embedding or head"

    return {name: WeightType(type=str(Scheme(specs.get(name))), why=why(name)) for name in weight_names(relations)}


def weight_names(relations: Relations) -> list[str]:
    """Every weight that a mixture gives a type: embedding, linears of the blocks, and a head of its own."""
    return list(dict.fromkeys(filter(None, (relations.embedding, *relations.linears, relations.head_weight))))


def _row(model: PreTrainedModel, name: str) -> int:
    """Number of inputs of a linear, embedding or head."""
    module = model.get_submodule(name)
    weight = weight_at(model, name) if isinstance(module, Linear) else module.get_parameter("weight")
    return int(weight.shape[1])


def _dealt(name: MixtureName, relations: Relations, model: PreTrainedModel) -> Mapping[str, WeightSpec]:
    mixture, roles, blocks = MIXTURES[name], roles_of(relations), len(relations.blocks)
    if not any(role == "down" for role, _ in roles.values()):
        raise RefusedError(
            f"{name} favours linears by the names that GGUF knows, and knows none of {relations.linears[0]!r} to "
            f"{relations.linears[-1]!r} as the last of a feed-forward network; use the pure type {mixture.base}"
        )

    dealt = {
        linear: mixture.type_of(role, _row(model, linear), block, blocks) for linear, (role, block) in roles.items()
    }
    dealt[relations.embedding] = mixture.type_of("other", _row(model, relations.embedding))
    if relations.head_weight is not None:
        dealt[relations.head_weight] = mixture.type_of("head", _row(model, relations.head_weight))
    return {module: gguf_spec(kind) for module, kind in dealt.items()}
