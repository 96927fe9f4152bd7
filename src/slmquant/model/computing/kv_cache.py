"""A quantized key-value cache for unmodified transformers models.

slmquant registers an attention function (`computing.attention`) that rounds keys and values and then calls the previous
function (`sdpa`, or the architecture's own `eager` with its soft caps and sinks).

KIVI: Liu, Yuan, Jin, et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", ICML 2024, arXiv
2402.02750. Rotated keys (R3): Ashkboos et al., "QuaRot", NeurIPS 2024, arXiv 2404.00456.

Deviations:
    * The cache holds full-precision numbers, which are rounded whenever they are read: results equal those of a packed
      cache, but memory does not shrink. If rounding is per token, decoding with a cache gives the same results as one
      parallel forward pass.
    * The authors' prompt pass reads exact keys and values, and only decoding reads rounded ones. Here every query
      reads the same as if its token were decoded (`computing.recent_tokens`), because texts and answers are scored in
      one pass.
    * Groups of tokens start at the first token passed to attention: in padded batches they include padding, and in the
      cache of a sliding window they move with the window.
    * Latent attention (MLA) is refused: it caches other tensors than attention reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from slmquant.core.kv import bits_per_value, round_float8, round_per_channel, round_per_token
from slmquant.errors import RefusedError
from slmquant.model.compatibility.cache_names import cache_of
from slmquant.model.compatibility.context import fitting
from slmquant.model.computing.attention import (
    MASKS,
    AttentionCall,
    AttentionFunction,
    observing,
    passing_on,
    switch_,
)
from slmquant.model.computing.recent_tokens import Cache, attend_recent
from slmquant.schemes.kv import KvSpec

__all__ = [
    "KV_CONTEXT",
    "CacheRounding",
    "HeadRotation",
    "Rounded",
    "depends_on_position",
    "kv_bits_per_value",
    "quantize_cache_",
    "refusal",
]

KV_CONTEXT = 2048
"""Cached tokens (at most the model's context) that average bits are computed for; recent tokens count 16 bits."""

_PREFIX = "slmquant_"


class HeadRotation(Protocol):
    """An orthogonal map of the channels of a head, applied to queries and keys; their products do not change."""

    def apply(self, x: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        """Rotate the last dimension."""
        ...


class Rounded(NamedTuple):
    """Inputs of attention after rounding."""

    query: Float[Tensor, "batch heads queries dim"]
    key: Float[Tensor, "batch kv_heads tokens dim"]
    value: Float[Tensor, "batch kv_heads tokens value_dim"]


class CacheRounding(nn.Module):
    """Optionally rotates queries and keys, then rounds keys and values; a submodule of an attention module.

    Args:
        spec: Number format; None does not round.
        rotation: Applied to queries and keys after the rotary embedding; None for none.
    """

    def __init__(self, spec: KvSpec | None, rotation: HeadRotation | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.rotation = rotation

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Rounded:
        """Queries, keys and values for attention, if no tokens are kept in full precision."""
        query, key = self.rotated(query, key)
        return Rounded(query, *self.rounded(key, value))

    def rotated(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys, not yet rounded."""
        if self.rotation is None:
            return query, key
        return self.rotation.apply(query), self.rotation.apply(key)

    def rounded(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded keys and values; keys must be rotated already."""
        if self.spec is None:
            return key, value
        return _round_keys(key, self.spec), _round_values(value, self.spec)

    def extra_repr(self) -> str:
        """Settings, for torch's printed form of the module."""
        return f"{self.spec}, rotated={self.rotation is not None}"


def quantize_cache_(
    model: PreTrainedModel, spec: KvSpec | None, rotate: Callable[[int], HeadRotation] | None = None
) -> float:
    """Make every attention module of `model` read rounded keys and values; a second call replaces the first.

    Args:
        model: A model for which `refusal` is None; its modules are not changed otherwise.
        spec: Number format; None only rotates.
        rotate: Makes the rotation (R3) of a head with that many channels; None for none.

    Returns:
        Average bits of a cached number over the layers, see `kv_bits_per_value`.

    Raises:
        RefusedError: The attention of this architecture is not accessible.
    """
    probed = _probe(model)
    if (reason := _refusal(model, probed)) is not None or probed is None:
        raise RefusedError(reason)
    for call in probed.calls:
        call.module.cache_rounding = CacheRounding(spec, None if rotate is None else rotate(call.key.shape[-1]))
    switch_(model, _PREFIX + _implementation(model))
    context = fitting(KV_CONTEXT, model.config)
    bits = [kv_bits_per_value(spec, call.key.shape[-1], context) for call in probed.calls]
    return sum(bits) / len(bits)


def refusal(model: PreTrainedModel) -> str | None:
    """Why the cache of `model` cannot be quantized, or None; runs one token through the model to find out."""
    return _refusal(model, _probe(model))


def _refusal(model: PreTrainedModel, probed: _Probed | None) -> str | None:
    kind = model.config.model_type
    if probed is None:
        implementation = _implementation(model)
        return f"the key-value cache cannot be quantized under {implementation!r} attention; load the model with 'sdpa'"
    if not probed.calls and not probed.cached_keys:
        return f"{kind} has a recurrent state instead of keys and values; drop the KV part of the scheme"
    unseen = sum(not any(_same(key, call.key) for call in probed.calls) for key in probed.cached_keys)
    if unseen and len(probed.calls) >= len(probed.cached_keys):
        return (
            f"{kind} caches other tensors than the keys that its attention reads (latents that are expanded later), "
            "which is not supported; drop the KV part of the scheme"
        )
    if unseen:
        return (
            f"{kind} computes attention outside transformers' attention registry in {unseen} of "
            f"{len(probed.cached_keys)} layers, so its keys and values are not accessible; "
            "drop the KV part of the scheme"
        )
    return None


def depends_on_position(model: PreTrainedModel) -> bool:
    """Whether rounding of keys or values depends on a token's position, so that they cannot be shared."""
    specs = [module.spec for module in model.modules() if isinstance(module, CacheRounding)]
    return any(spec is not None and (spec.key_tokens or spec.recent) for spec in specs)


def kv_bits_per_value(spec: KvSpec | None, head_dim: int, context: int = KV_CONTEXT) -> float:
    """Average bits of a cached key or value, including float16 scales and minima; 16 if nothing is rounded.

    Args:
        spec: Number format of the cache.
        head_dim: Channels of a head.
        context: Tokens in the cache. Recent ones are kept in 16 bits: `recent` values, and the keys since the last
            multiple of `recent`, which are `(recent − 1) / 2` on average.
    """
    if spec is None:
        return 16.0
    groups = -(-head_dim // (spec.group_size or head_dim))
    values = bits_per_value(spec.bits, head_dim / groups, parameters=1 if spec.floating else 2)
    keys = values if spec.key_tokens is None else bits_per_value(spec.bits, spec.key_tokens)
    if spec.recent:
        keys = _mixed(keys, (spec.recent - 1) / 2 / context)
        values = _mixed(values, spec.recent / context)
    return (keys + values) / 2


def _mixed(bits: float, share: float) -> float:
    """Average bits if a share of the numbers has 16 bits."""
    share = min(1.0, share)
    return (1 - share) * bits + share * 16


def _round_keys(key: Tensor, spec: KvSpec) -> Tensor:
    return _round_values(key, spec) if spec.key_tokens is None else round_per_channel(key, spec.bits, spec.key_tokens)


def _round_values(value: Tensor, spec: KvSpec) -> Tensor:
    if spec.floating:
        return round_float8(value, spec.group_size)
    return round_per_token(value, spec.bits, spec.group_size)


class _Probed(NamedTuple):
    """Calls of the attention registry, and the keys that the model cached."""

    calls: list[AttentionCall]
    cached_keys: list[Tensor]


@torch.no_grad()
def _probe(model: PreTrainedModel) -> _Probed | None:
    """Run one token and record all calls of the attention registry; None if the implementation is not supported."""
    calls: list[AttentionCall] = []
    if (implementation := _implementation(model)) not in MASKS:
        return None
    with observing(model, implementation, calls.append):
        output = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    cache = cache_of(output)
    keys = [getattr(layer, "keys", None) for layer in getattr(cache, "layers", ())]
    return _Probed(calls, [key for key in keys if isinstance(key, Tensor) and key.numel()])


def _same(cached: Tensor, seen: Tensor) -> bool:
    return cached.shape == seen.shape and torch.equal(cached, seen)


def _implementation(model: PreTrainedModel) -> str:
    """Name of the model's attention function, without slmquant's prefix."""
    return cast(str, model.config._attn_implementation).removeprefix(_PREFIX)


def _rounding_first(implementation: str) -> AttentionFunction:
    attend_exactly = passing_on(implementation)

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: object
    ) -> tuple[Tensor, Tensor | None]:
        rounding = cast(CacheRounding, module.cache_rounding)
        query, key = rounding.rotated(query, key)
        recent = 0 if rounding.spec is None else rounding.spec.recent
        if recent and key.shape[-2] <= recent:  # all tokens are recent
            return attend_exactly(module, query, key, value, mask, **options)
        rounded = rounding.rounded(key, value)
        if not recent:
            return attend_exactly(module, query, *rounded, mask, **options)
        cache = Cache(key, value, *rounded)
        return attend_recent(attend_exactly, module, query, cache, mask, recent, **options), None

    return attend


for _name, _mask in MASKS.items():
    AttentionInterface.register(_PREFIX + _name, _rounding_first(_name))
    AttentionMaskInterface.register(_PREFIX + _name, _mask)
