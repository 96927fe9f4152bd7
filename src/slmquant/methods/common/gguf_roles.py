"""Roles of linears in GGUF's mixtures, by the names that the gguf library lists for every model family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import gguf

from slmquant.model.structure import Relations
from slmquant.schemes.mixtures import Role

_TENSORS: Mapping[gguf.MODEL_TENSOR, Role] = MappingProxyType(
    {
        gguf.MODEL_TENSOR.ATTN_V: "value",
        gguf.MODEL_TENSOR.ATTN_QKV: "value",
        gguf.MODEL_TENSOR.ATTN_K: "key",
        gguf.MODEL_TENSOR.FFN_DOWN: "down",
    }
)


def roles_of(relations: Relations) -> Mapping[str, tuple[Role, int]]:
    """The role of every linear (`other` if it has none) and the number of its block."""
    roles: dict[str, tuple[Role, int]] = {}
    for number, block in enumerate(relations.blocks):
        known = {
            pattern.format(bid=number): role
            for tensor, role in _TENSORS.items()
            for pattern in gguf.TensorNameMap.block_mappings_cfg.get(tensor, ())
        }
        for name in relations.linears:
            if name.startswith(f"{block}."):
                roles[name] = known.get(name, "other"), number
    return roles
