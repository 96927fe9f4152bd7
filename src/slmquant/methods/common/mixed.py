"""Number format of each weight of a model: the same for all linears, or types assigned by a mixture."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedModel

from slmquant.errors import RefusedError
from slmquant.methods.common.gguf_roles import roles_of
from slmquant.model.linears import weight_at
from slmquant.model.structure import Relations
from slmquant.schemes.mixtures import MIXTURES, MixtureName
from slmquant.schemes.scheme import Scheme, WeightSpec, gguf_spec


def specs_of(scheme: Scheme, relations: Relations, model: PreTrainedModel) -> Mapping[str, WeightSpec]:
    """Number formats of linears, embedding and head by module name, except for those left in 16 bits.

    Raises:
        RefusedError: The scheme is a mixture, and no linear of the model has a role that it knows.
    """
    if scheme.mixture is not None:
        return _dealt(scheme.mixture, relations, model)
    specs: dict[str, WeightSpec] = {}
    if scheme.weights is not None:
        specs |= dict.fromkeys(relations.linears, scheme.weights)
    if scheme.embeddings is not None:
        specs |= dict.fromkeys(filter(None, (relations.embedding, relations.head_weight)), scheme.embeddings)
    return specs


def _dealt(name: MixtureName, relations: Relations, model: PreTrainedModel) -> Mapping[str, WeightSpec]:
    mixture, roles, blocks = MIXTURES[name], roles_of(relations), len(relations.blocks)
    if not any(role == "down" for role, _ in roles.values()):
        raise RefusedError(
            f"{name} favours linears by the names that GGUF knows, and knows none of {relations.linears[0]!r} to "
            f"{relations.linears[-1]!r} as the last of a feed-forward network; use the pure type {mixture.base}"
        )

    def row(module: str) -> int:
        linear = module in roles
        return (weight_at(model, module) if linear else model.get_submodule(module).get_parameter("weight")).shape[1]

    dealt = {linear: mixture.type_of(role, row(linear), block, blocks) for linear, (role, block) in roles.items()}
    dealt[relations.embedding] = mixture.type_of("other", row(relations.embedding))
    if relations.head_weight is not None:
        dealt[relations.head_weight] = mixture.type_of("head", row(relations.head_weight))
    return {module: gguf_spec(kind) for module, kind in dealt.items()}
