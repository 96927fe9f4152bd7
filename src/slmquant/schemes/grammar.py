"""The grammar of scheme names: `str(parse(s)) == s` for every name in its canonical form.

::

    W<bits>A<bits>[KV<bits>][g<size>][E<bits>][-tensor][-sym|-asym][-static]

    W4A16g64        4-bit weights in groups of 64 inputs, activations in 16 bits
    W8A8            8-bit weights per output channel, 8-bit activations per token
    W8A8-static     the same, with one calibrated activation scale per tensor
    W4A4KV4g128     and a 4-bit key-value cache
    W4A16g64E8      and embeddings and head in 8 bits, grouped as the linears are
    FP8  MXFP4  NVFP4  NF4g64  Q4_K_M  ...

Defaults are omitted: weights are symmetric and per output channel, activations symmetric and per token,
embeddings and head stay in 16 bits. Other spellings of the same scheme (`w4a16G64`, `W4A16g64-sym`) are read
and printed in the canonical form.
"""

from __future__ import annotations

import re
from typing import cast, get_args

from slmquant.errors import SchemeError
from slmquant.schemes.scheme import (
    FULL_PRECISION_BITS,
    ActivationSpec,
    FloatName,
    GgufType,
    Granularity,
    IntegerFormat,
    NumberFormat,
    PerChannel,
    PerGroup,
    PerTensor,
    Scheme,
    WeightSpec,
)

EXAMPLES: dict[str, str] = {
    "W8A8": "8-bit weights per channel, 8-bit activations per token",
    "W8A8-static": "the same, one calibrated activation scale per tensor",
    "W4A8": "4-bit weights per channel, 8-bit activations per token",
    "W4A16": "4-bit weights per channel",
    "W4A16g64": "4-bit weights in groups of 64",
    "W4A16g64-asym": "the same with zero points",
    "W4A16g64E8": "the same as W4A16g64, embeddings and head in 8 bits",
    "W3A16g64": "3-bit weights in groups of 64",
    "W4A4KV4": "4-bit weights, activations and key-value cache",
    "FP8": "8-bit floating point E4M3",
    "MXFP4": "4-bit microscaling floating point",
    "NVFP4": "4-bit floating point with two-level scales",
    "NF4g64": "4-bit normal-float in groups of 64",
    "Q4_K_M": "a GGUF mixture",
}
"""Typical names with a half-line each; any name of the grammar works."""

_INTEGER = re.compile(
    r"W(?P<w>\d+)A(?P<a>\d+)(KV(?P<kv>\d+))?(g(?P<g>\d+))?(E(?P<e>\d+))?"
    r"(?P<tensor>-tensor)?(?P<sym>-a?sym)?(?P<static>-static)?",
    re.IGNORECASE,
)
_FLOAT = re.compile(rf"(?P<name>{'|'.join(get_args(FloatName))})(g(?P<g>\d+))?", re.IGNORECASE)
_GGUF = re.compile(r"(Q[2-8]_[01]|Q[2-6]_K(_[SML])?|IQ[1-4]_(XXS|XS|S|M|NL)|F16|BF16)", re.IGNORECASE)


def parse(name: str) -> Scheme:
    """Read a scheme name.

    Raises:
        SchemeError: The name does not follow the grammar, or what it says contradicts itself; the message
            gives an example or the remedy.
    """
    text = name.strip()
    if match := _INTEGER.fullmatch(text):
        return _integer_scheme(name, match)
    if match := _FLOAT.fullmatch(text):
        return _float_scheme(match)
    if _GGUF.fullmatch(text):
        return Scheme(special=GgufType(text.upper()))
    raise SchemeError(
        f"cannot read scheme {name!r}; expected e.g. 'W4A16g64', 'W8A8' or 'W4A4KV4g64-asym' "
        "(`slmquant schemes` shows the grammar)"
    )


def _integer_scheme(name: str, match: re.Match[str]) -> Scheme:
    weight_bits, act_bits, kv_bits, emb_bits = (_bits(match[part]) for part in ("w", "a", "kv", "e"))
    granularity: Granularity = PerChannel()
    if match["g"]:
        granularity = PerGroup(int(match["g"]))
    if match["tensor"]:
        if match["g"]:
            raise SchemeError(f"{name!r} asks for groups and for one scale per tensor; drop one of the two")
        granularity = PerTensor()
    symmetric = (match["sym"] or "-sym").lower() == "-sym"
    if weight_bits is None and emb_bits is None and (match["g"] or match["tensor"] or match["sym"]):
        raise SchemeError(f"{name!r} says how weights are grouped but leaves them in 16 bits; give W or E fewer bits")
    if match["static"] and act_bits is None:
        raise SchemeError(f"{name!r} asks for static activations but leaves them in 16 bits; write e.g. 'W8A8-static'")
    return Scheme(
        weights=WeightSpec(IntegerFormat(weight_bits, symmetric), granularity) if weight_bits else None,
        activations=ActivationSpec(act_bits, static=bool(match["static"])) if act_bits else None,
        kv_bits=kv_bits,
        embeddings=WeightSpec(IntegerFormat(emb_bits, symmetric), granularity) if emb_bits else None,
    )


def _float_scheme(match: re.Match[str]) -> Scheme:
    format_name = cast(FloatName, match["name"].upper())
    group = int(match["g"]) if match["g"] else None
    if group is not None and format_name != "NF4":
        raise SchemeError(f"{format_name} has a fixed group size; write {format_name!r} alone")
    if group is not None:
        PerGroup(group)
    return Scheme(special=NumberFormat(format_name), special_group=group)


def _bits(digits: str | None) -> int | None:
    bits = int(digits) if digits else None
    return None if bits == FULL_PRECISION_BITS else bits
