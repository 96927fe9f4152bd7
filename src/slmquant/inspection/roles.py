"""Roles of linears: by the names that the gguf library lists for every model family, else by how channels follow."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import gguf
from transformers import PreTrainedModel

from slmquant.methods.common.gguf_roles import known_by_name
from slmquant.model.linears import weight_at
from slmquant.model.structure import ChannelLink, Relations
from slmquant.store.anatomy import Role

_TENSORS: Mapping[gguf.MODEL_TENSOR, Role] = MappingProxyType(
    {
        gguf.MODEL_TENSOR.ATTN_Q: "q",
        gguf.MODEL_TENSOR.ATTN_K: "k",
        gguf.MODEL_TENSOR.ATTN_V: "v",
        gguf.MODEL_TENSOR.ATTN_QKV: "qkv",
        gguf.MODEL_TENSOR.ATTN_OUT: "o",
        gguf.MODEL_TENSOR.FFN_GATE: "gate",
        gguf.MODEL_TENSOR.FFN_UP: "up",
        gguf.MODEL_TENSOR.FFN_DOWN: "down",
    }
)


def roles_of(model: PreTrainedModel, relations: Relations) -> Mapping[str, tuple[Role, int]]:
    """The role of every linear of the blocks, and the number of its block."""
    known = known_by_name(relations, _TENSORS)
    followed = _by_links(model, relations)
    return {name: (role or followed.get(name, "other"), block) for name, (role, block) in known.items()}


def _by_links(model: PreTrainedModel, relations: Relations) -> dict[str, Role]:
    """Roles that follow from relations alone.

    Of a linear whose channels another one follows, all of them once: `up` and `down` if it reads its input alone,
    `gate`, `up` and `down` if one more linear does, and `q`, `k`, `v` and `o` in a group of three, in execution order.
    """
    groups = {name: group.linears for group in relations.groups for name in group.linears}
    found: dict[str, Role] = {}
    for link in relations.links:
        readers = [name for name in groups[link.source] if name != link.source]
        if len(readers) == 2:
            found[readers[0]], found[readers[1]], found[link.source], found[link.target] = "q", "k", "v", "o"
        elif _is_whole(model, link) and len(readers) < 2:
            found[link.source], found[link.target] = "up", "down"
            for name in readers:
                found[name] = "gate"
    return found


def _is_whole(model: PreTrainedModel, link: ChannelLink) -> bool:
    """Whether every output channel of the source is followed; not so of queries, keys and values in one linear."""
    return len(set(link.source_rows)) == len(weight_at(model, link.source))
