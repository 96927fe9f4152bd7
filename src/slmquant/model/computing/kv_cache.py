"""A quantized key-value cache, in transformers models as they are.

Every attention module that follows transformers' attention registry hands over its queries, keys and values after
the rotary embedding, keys and values not yet repeated for grouped queries. There an attention function of ours rounds
keys and values and passes on to the function that was in use before (`sdpa`, or the architecture's own `eager` with
its soft caps and sinks).

KIVI: Liu, Yuan, Jin, et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", ICML 2024, arXiv
2402.02750. Rotated keys (R3): Ashkboos et al., "QuaRot", NeurIPS 2024, arXiv 2404.00456.

Deviations:
    * The cache holds full-precision numbers, which are rounded whenever they are read: what is computed is what a
      packed cache would give, the memory is not. Rounded per token, a running cache gives what one parallel forward
      pass gives.
    * The authors' prompt pass reads exact keys and values, and only decoding reads rounded ones. Here every query
      reads what it would read if its token were decoded (`computing.recent_tokens`), as texts and answers are scored in
      one pass.
    * Groups of tokens count from the first that attention is given: in padded batches they count padding, and in a
      sliding window's running cache they move on with the window.
    * Latent attention (MLA) is refused: what it caches is not what attention reads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask, sdpa_mask

from slmquant.core.kv import bits_per_value, round_float8, round_per_channel, round_per_token
from slmquant.errors import RefusedError
from slmquant.model.compatibility.cache_names import cache_of
from slmquant.model.compatibility.context import fitting
from slmquant.model.compatibility.quiet import quiet_transformers
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
"""Tokens in the cache whose bits are counted, or as many as the model takes: recent tokens in 16 bits are a share."""

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]
"""What transformers' registry holds: `(module, query, key, value, mask, **options)` to output and weights."""

_PREFIX = "slmquant_"
_PROBE = "slmquant-probe_"
_MASKS: dict[str, Callable[..., Tensor | None]] = {"sdpa": sdpa_mask, "eager": eager_mask}
"""The attention functions that we can stand before, with the masks that they take."""


class HeadRotation(Protocol):
    """An orthogonal map of the channels of a head, the same for queries and keys: it leaves their products alone."""

    def apply(self, x: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        """Rotate the last dimension."""
        ...


class Rounded(NamedTuple):
    """What attention reads."""

    query: Float[Tensor, "batch heads queries dim"]
    key: Float[Tensor, "batch kv_heads tokens dim"]
    value: Float[Tensor, "batch kv_heads tokens value_dim"]


class CacheRounding(nn.Module):
    """Rotates queries and keys where asked to, then rounds keys and values; sits in an attention module.

    Args:
        spec: How to round; None leaves the numbers as they are.
        rotation: Applied to queries and keys after the rotary embedding; None for none.
    """

    def __init__(self, spec: KvSpec | None, rotation: HeadRotation | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.rotation = rotation

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Rounded:
        """Queries, keys and values as attention shall read them, where no token is recent."""
        query, key = self.rotated(query, key)
        return Rounded(query, *self.rounded(key, value))

    def rotated(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys before they are rounded."""
        if self.rotation is None:
            return query, key
        return self.rotation.apply(query), self.rotation.apply(key)

    def rounded(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated keys, and values, as the cache stores them once they are not recent any more."""
        if self.spec is None:
            return key, value
        return _round_keys(key, self.spec), _round_values(value, self.spec)

    def extra_repr(self) -> str:
        """What it does, as torch prints a module."""
        return f"{self.spec}, rotated={self.rotation is not None}"


def quantize_cache_(
    model: PreTrainedModel, spec: KvSpec | None, rotate: Callable[[int], HeadRotation] | None = None
) -> float:
    """Let every attention of `model` read rounded keys and values; done again, it replaces what was there.

    Args:
        model: A model for which `refusal` is None; its modules are otherwise left alone.
        spec: How to round; None leaves the numbers as they are, and only rotates.
        rotate: The rotation (R3) of a head of that many channels; None for none.

    Returns:
        Bits of a cached number on average over the layers, as `kv_bits_per_value` counts them.

    Raises:
        RefusedError: Attention cannot be reached in this architecture.
    """
    probed = _probe(model)
    if (reason := _refusal(model, probed)) is not None or probed is None:
        raise RefusedError(reason)
    for module, key in probed.calls:
        module.cache_rounding = CacheRounding(spec, None if rotate is None else rotate(key.shape[-1]))
    _switch_(model, _PREFIX + _implementation(model))
    context = fitting(KV_CONTEXT, model.config)
    bits = [kv_bits_per_value(spec, key.shape[-1], context) for _, key in probed.calls]
    return sum(bits) / len(bits)


def refusal(model: PreTrainedModel) -> str | None:
    """Why the cache of `model` cannot be quantized; None where it can. One token is run through it to find out."""
    return _refusal(model, _probe(model))


def _refusal(model: PreTrainedModel, probed: _Probed | None) -> str | None:
    kind = model.config.model_type
    if probed is None:
        implementation = _implementation(model)
        return f"the key-value cache cannot be quantized under {implementation!r} attention; load the model with 'sdpa'"
    if not probed.calls and not probed.cached_keys:
        return f"{kind} keeps a recurrent state, no keys and values; drop the KV part of the scheme"
    unseen = sum(not any(_same(key, call.key) for call in probed.calls) for key in probed.cached_keys)
    if unseen and len(probed.calls) >= len(probed.cached_keys):
        return (
            f"{kind} caches something else than the keys that its attention reads (latents, to be expanded), which "
            "cannot be reached; drop the KV part of the scheme"
        )
    if unseen:
        return (
            f"{kind} computes attention outside transformers' attention registry in {unseen} of "
            f"{len(probed.cached_keys)} layers, where its keys and values cannot be reached; "
            "drop the KV part of the scheme"
        )
    return None


def depends_on_position(model: PreTrainedModel) -> bool:
    """Whether a token's keys or values are rounded by where it stands in the sequence, so that none can be shared."""
    specs = [module.spec for module in model.modules() if isinstance(module, CacheRounding)]
    return any(spec is not None and (spec.key_tokens or spec.recent) for spec in specs)


def kv_bits_per_value(spec: KvSpec | None, head_dim: int, context: int = KV_CONTEXT) -> float:
    """Bits of a cached key or value on average, float16 scales and minima included; 16 where nothing is rounded.

    Args:
        spec: How the cache is rounded.
        head_dim: Channels of a head.
        context: Tokens in the cache, of which recent ones are kept in 16 bits: `recent` values, and keys since the last
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
    """Bits on average where a share of the numbers has 16."""
    share = min(1.0, share)
    return (1 - share) * bits + share * 16


def _round_keys(key: Tensor, spec: KvSpec) -> Tensor:
    return _round_values(key, spec) if spec.key_tokens is None else round_per_channel(key, spec.bits, spec.key_tokens)


def _round_values(value: Tensor, spec: KvSpec) -> Tensor:
    if spec.floating:
        return round_float8(value, spec.group_size)
    return round_per_token(value, spec.bits, spec.group_size)


class _Call(NamedTuple):
    """An attention module and the keys that it handed over."""

    module: nn.Module
    key: Tensor


class _Probed(NamedTuple):
    """Who went through the registry, and which keys the model cached."""

    calls: list[_Call]
    cached_keys: list[Tensor]


@torch.no_grad()
def _probe(model: PreTrainedModel) -> _Probed | None:
    """Run one token through the model and look who hands keys to the registry; None under other attention."""
    calls: list[_Call] = []
    if (implementation := _implementation(model)) not in _MASKS:
        return None
    attend = _passing_on(implementation)

    def record(module: nn.Module, query: Tensor, key: Tensor, *rest: object, **options: object) -> object:
        calls.append(_Call(module, key))
        return attend(module, query, key, *rest, **options)

    before = model.config._attn_implementation
    AttentionInterface.register(_PROBE + implementation, record)
    AttentionMaskInterface.register(_PROBE + implementation, _MASKS[implementation])
    _switch_(model, _PROBE + implementation)
    try:
        output = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    finally:
        _switch_(model, before)
    cache = cache_of(output)
    keys = [getattr(layer, "keys", None) for layer in getattr(cache, "layers", ())]
    return _Probed(calls, [key for key in keys if isinstance(key, Tensor) and key.numel()])


def _same(cached: Tensor, seen: Tensor) -> bool:
    return cached.shape == seen.shape and torch.equal(cached, seen)


def _implementation(model: PreTrainedModel) -> str:
    """The attention function of transformers that the model uses, or that ours passes on to."""
    return cast(str, model.config._attn_implementation).removeprefix(_PREFIX)


def _switch_(model: PreTrainedModel, name: str) -> None:
    with quiet_transformers():  # it says of some architectures that they cannot be switched; `refusal` says it for us
        model.set_attn_implementation(name)


def _passing_on(implementation: str) -> AttentionFunction:
    """The function `implementation` as the module's own architecture defines it."""

    def attend(module: nn.Module, *inputs: object, **options: object) -> tuple[Tensor, Tensor | None]:
        architecture = sys.modules[type(module).forward.__module__]
        eager = getattr(architecture, "eager_attention_forward", None)
        function = architecture.ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
        return cast(AttentionFunction, function)(module, *inputs, **options)

    return attend


def _rounding_first(implementation: str) -> AttentionFunction:
    passing_on = _passing_on(implementation)

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: object
    ) -> tuple[Tensor, Tensor | None]:
        rounding = cast(CacheRounding, module.cache_rounding)
        query, key = rounding.rotated(query, key)
        recent = 0 if rounding.spec is None else rounding.spec.recent
        if recent and key.shape[-2] <= recent:  # all tokens are recent
            return passing_on(module, query, key, value, mask, **options)
        rounded = rounding.rounded(key, value)
        if not recent:
            return passing_on(module, query, *rounded, mask, **options)
        cache = Cache(key, value, *rounded)
        return attend_recent(passing_on, module, query, cache, mask, recent, **options), None

    return attend


for _name, _mask in _MASKS.items():
    AttentionInterface.register(_PREFIX + _name, _rounding_first(_name))
    AttentionMaskInterface.register(_PREFIX + _name, _mask)
