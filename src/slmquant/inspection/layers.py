"""How each decoder block is built: positions, heads, windows, norms of queries and keys, gates, biases.

What can be observed is observed: a few equal tokens run through the model, and its calls of attention are recorded.
Equal tokens are equal in every block, as each attends to equal values. So if they differ when they enter the first
block, positions were added to the embedding; and if their queries differ where attention gets them, these were rotated.
The rest is read from the configuration and the names of modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from slmquant.model.computing.attention import AttentionCall, observing
from slmquant.model.discovery.block_replay import record_block_calls
from slmquant.model.linears import in_features, out_features
from slmquant.model.structure import Relations
from slmquant.store.anatomy import LayerFacts, Positions, Role

_TOKENS = 4
_LEAST_CHANGE = 1e-3
"""Relative change of a state from token to token that counts; rounding changes it by a millionth."""
_OF_QUERIES_OR_KEYS = ("q_", "k_", "query", "key")


def layer_facts(
    model: PreTrainedModel, relations: Relations, roles: Mapping[str, tuple[Role, int]]
) -> tuple[LayerFacts, ...]:
    """Facts of every decoder block, first to last."""
    observed = _observe(model, relations)
    found = []
    for number, block in enumerate(relations.blocks):
        linears = {name: role for name, (role, place) in roles.items() if place == number}
        call = observed.calls.get(block)
        positions = _positions(model.config, observed, call, linears)
        found.append(
            LayerFacts(
                name=block,
                positions=positions,
                rotary_type=_rotary_type(model.config, number) if positions == "rotary" else None,
                window=_window(model.config, call, number),
                query_heads=None if call is None else call.query.shape[1],
                key_heads=None if call is None else call.key.shape[1],
                head_size=None if call is None else call.query.shape[3],
                qk_norm=_has_qk_norm(model, linears),
                gated=_is_gated(model, linears),
                biases=tuple(dict.fromkeys(role for name, role in linears.items() if _has_bias(model, name))),
            )
        )
    return tuple(found)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, by its class."""
    return "norm" in type(module).__name__.lower() and not any(module.children())


class _Observed(NamedTuple):
    """What a few equal tokens show.

    Attributes:
        entering: Input of the first block, `(tokens, hidden)`.
        calls: Block → its first call of attention.
    """

    entering: Tensor
    calls: Mapping[str, AttentionCall]


def _observe(model: PreTrainedModel, relations: Relations) -> _Observed:
    vocabulary = model.get_input_embeddings().get_parameter("weight").shape[0]
    tokens = torch.full((1, _TOKENS), vocabulary // 2, device=model.device)
    blocks = {name: model.get_submodule(name) for name in relations.blocks}
    calls: list[AttentionCall] = []
    with observing(model, "eager", calls.append):
        entered = record_block_calls(model, blocks, tokens)[relations.blocks[0]]
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, AttentionCall] = {}
    for call in calls:
        block = next((name for name in blocks if names[call.module].startswith(f"{name}.")), None)
        if block is not None:
            found.setdefault(block, call)
    first: Tensor = entered.args[0] if entered.args else entered.kwargs["hidden_states"]
    return _Observed(first[0], found)


def _differ(states: Tensor) -> bool:
    """Whether states, `(tokens, channels)`, of equal tokens differ."""
    change = torch.linalg.vector_norm(states - states[:1], dim=1).max()
    return bool(change > _LEAST_CHANGE * torch.linalg.vector_norm(states[0]))


def _positions(
    config: PreTrainedConfig, observed: _Observed, call: AttentionCall | None, linears: Mapping[str, Role]
) -> Positions | None:
    """How positions enter a block; None if it has no attention."""
    if call is None and not {"q", "qkv"} & set(linears.values()):
        return None
    if _differ(observed.entering):
        return "learned"
    if call is not None and _differ(call.query[0].transpose(0, 1).flatten(1)):
        return "rotary"
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return "ALiBi"
    if call is not None:
        return "none"
    return "rotary" if getattr(config, "rope_parameters", None) else "unknown"


def _rotary_type(config: PreTrainedConfig, layer: int) -> str | None:
    """Name of the rotary embedding of a layer, in the words of transformers."""
    stated = getattr(config.get_text_config(), "rope_parameters", None)
    if not isinstance(stated, Mapping):
        return None
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    own = stated.get(kinds[layer]) if layer < len(kinds) else None  # Gemma 3 has one for each type of layer
    kind = (own if isinstance(own, Mapping) else stated).get("rope_type")
    return None if kind is None else str(kind)


def _window(config: PreTrainedConfig, call: AttentionCall | None, layer: int) -> int | None:
    """Tokens that a token attends to; of GPT-Neo, whose masks tell it alone, as the configuration says."""
    local = getattr(config, "attention_layers", ())
    if layer < len(local) and local[layer] == "local":
        return int(config.window_size)
    return None if call is None else call.window


def _has_qk_norm(model: PreTrainedModel, linears: Mapping[str, Role]) -> bool:
    """Whether a norm of queries or keys lies beside the linear that makes queries."""
    parents = {name.rpartition(".")[0] for name, role in linears.items() if role in ("q", "qkv")}
    return any(
        "norm" in type(module).__name__.lower() and name.startswith(_OF_QUERIES_OR_KEYS)
        for parent in parents
        for name, module in model.get_submodule(parent).named_children()
    )


def _is_gated(model: PreTrainedModel, linears: Mapping[str, Role]) -> bool:
    """Whether there is a gate, also one that shares a linear with `up`, which then has twice the outputs."""
    if "gate" in linears.values():
        return True
    width = {role: name for name, role in linears.items() if role in ("up", "down")}
    if len(width) < 2:
        return False
    return out_features(model.get_submodule(width["up"])) == 2 * in_features(model.get_submodule(width["down"]))


def _has_bias(model: PreTrainedModel, name: str) -> bool:
    return getattr(model.get_submodule(name), "bias", None) is not None
