"""Roles of linears, by the names that the gguf library lists for every model family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import gguf

from slmquant.model.structure import Relations
from slmquant.schemes.mixtures import Role

T = TypeVar("T")

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
    return {name: (role or "other", number) for name, (role, number) in known_by_name(relations, _TENSORS).items()}


def known_by_name(relations: Relations, meanings: Mapping[gguf.MODEL_TENSOR, T]) -> Mapping[str, tuple[T | None, int]]:
    """What the tensor that GGUF knows each linear as means, if any, and the number of its block.

    Args:
        relations: The linears.
        meanings: GGUF's tensors with their meanings; all others mean nothing.
    """
    found: dict[str, tuple[T | None, int]] = {}
    for number, block in enumerate(relations.blocks):
        known = {
            pattern.format(bid=number): meaning
            for tensor, meaning in meanings.items()
            for pattern in gguf.TensorNameMap.block_mappings_cfg.get(tensor, ())
        }
        for name in relations.linears:
            if name.startswith(f"{block}."):
                found[name] = known.get(name), number
    return found
