"""The grammar of scheme names: `str(parse(s)) == s` for every name in its canonical form.

::

    <weights>[A<activations>][KV<cache>][g<size>][E<bits>][-tensor][-sym|-asym][-dq][-static]

    W4A16g64        4-bit weights in groups of 64 inputs, activations in 16 bits
    W8A8            8-bit weights per output channel, 8-bit activations per token
    W8A8-static     the same, with one calibrated activation scale per tensor
    W4AFP8g64       activations in FP8 per token
    W1.58A16g64     ternary weights
    W4A4KV4g128     also a 4-bit key-value cache, one scale per token and head; KVFP8: in FP8
    W4A4KV4cg128    keys per channel in groups of tokens, values per token, the last 128 in 16 bits (KIVI)
    W4A16g64E8      also embeddings and head in 8 bits, grouped like the linears
    FP8  FP8A16     FP8 weights per channel and activations per token; weights only. FP8E5M2, FP8-static, FP8-tensor
    MXFP4  MXFP4A16 microscaling: weights and activations; weights only. MXFP6, MXFP6E2M3, MXFP8, MXINT8, NVFP4
    NF4g64  FP4g64  weights only, in groups; FP6g64, FP6E2M3g64. NF4g64-dq: scales in 8 bits too
    Q4_K  Q8_0 ...  GGUF's types, weights only; Q4_KE6: also embeddings in Q6_K; IQ4_NLE4: in IQ4_NL
    IQ4_XS  IQ3_S   uneven levels, and codebooks (also IQ3_XXS and IQ2_S), for rows of whole blocks of 256 inputs
    Q4_K_M  ...     GGUF's mixtures, with llama.cpp's choice of types: Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M
    max-92MB        a type for every weight, chosen by the method (slmq) for a GGUF file of at most 92 MB
    Q4_0_M  Q4_0_S  slmquant's own: Q4_0, with Q8_0 for the most sensitive weights; for rows not a multiple of 256

Weights named by a number of bits need an A part; a format's name without one means the usual activations of that
format. Defaults are omitted: weights are symmetric and per output channel, activations symmetric and per token,
embeddings and head stay in 16 bits. Other spellings of the same scheme (`w4a16G64`, `W4A16g64-sym`, `NF4A16g64`) are
accepted, and printed in the canonical form.
"""

from __future__ import annotations

import re
from decimal import Decimal
from difflib import get_close_matches
from typing import cast, get_args

from slmquant.errors import SchemeError
from slmquant.schemes.kept_mixtures import kept_mixture
from slmquant.schemes.kv import KvSpec
from slmquant.schemes.mixtures import MixtureName
from slmquant.schemes.numbers import (
    FloatName,
    GgufName,
    GgufType,
    Granularity,
    IntegerFormat,
    NumberFormat,
    PerChannel,
    PerGroup,
    PerTensor,
    TernaryFormat,
    WeightFormat,
)
from slmquant.schemes.scheme import (
    CHOSEN,
    FULL_PRECISION_BITS,
    SIZE_UNITS,
    ActivationFormat,
    ActivationSpec,
    Scheme,
    WeightSpec,
    activations_with,
    embeddings_like,
)

EXAMPLES: dict[str, str] = {
    "W8A8": "8-bit weights per channel, 8-bit activations per token",
    "W8A8-static": "the same, one calibrated activation scale per tensor",
    "W4A8": "4-bit weights per channel, 8-bit activations per token",
    "W4AFP8g64": "4-bit weights in groups of 64, FP8 activations per token",
    "W4A16": "4-bit weights per channel",
    "W4A16g64": "4-bit weights in groups of 64",
    "W4A16g64-asym": "the same with zero points",
    "W4A16g64E8": "like W4A16g64, with embeddings and head in 8 bits",
    "W3A16g64": "3-bit weights in groups of 64",
    "W1.58A16g64": "ternary weights in groups of 64",
    "W4A4KV4": "4-bit weights, activations and key-value cache",
    "W4A16KV2c": "4-bit weights; keys in 2 bits per channel, values per token, the last 128 in 16 bits (KIVI)",
    "FP8": "8-bit floating point E4M3, weights per channel and activations per token",
    "FP8A16": "the same, weights only",
    "FP6g64": "6-bit floating point E3M2, weights in groups of 64",
    "MXFP4": "4-bit microscaling floating point, weights and activations in blocks of 32",
    "MXFP4A16": "the same, weights only",
    "NVFP4": "4-bit floating point with two-level scales, weights and activations in blocks of 16",
    "NF4g64": "4-bit normal-float, weights in groups of 64",
    "NF4g64-dq": "the same, its scales in 8 bits",
    "Q4_K": "GGUF's 4-bit K-quants",
    "IQ4_NL": "GGUF's 16 uneven levels in blocks of 32, as large as Q4_0 and closer to the weights",
    "IQ4_XS": "the same levels with scales in two steps, a sixteenth smaller; for rows of whole blocks of 256",
    "IQ3_S": "a codebook of GGUF: four weights at a time, with scales in two steps; for rows of whole blocks of 256",
    "Q4_K_M": "a GGUF mixture: Q4_K, with more bits for some linears and the head",
    "Q4_0_M": "Q4_0, with Q8_0 for values, keys, the head and most of the last linears of feed-forward networks",
}
"""Typical names, each with a short description; any name of the grammar works."""


def _alternatives(names: tuple[str, ...]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


_FORMATS = tuple(str(name) for argument in get_args(FloatName) for name in get_args(argument) or (argument,))
_ACTIVATIONS = tuple(str(name) for argument in get_args(ActivationFormat) for name in get_args(argument) or (argument,))
_PART = re.compile(
    rf"(?P<weights>W\d+(\.\d+)?(?=A)|{_alternatives(_FORMATS)}|{_alternatives(get_args(GgufName))})"
    rf"(A(?P<a>\d+|{_alternatives(_ACTIVATIONS)}))?"
    r"(KV(?P<kv>\d+c?|FP8))?(g(?P<g>\d+))?(E(?P<e>\d+))?"
    r"(?P<tensor>-tensor)?(?P<sym>-a?sym)?(?P<dq>-dq)?(?P<static>-static)?",
    re.IGNORECASE,
)
_MIXTURE = re.compile(r"(Q[2-6]_K_[SML]|IQ[1-4]_(XXS|XS|S|M|NL)|F16|BF16)", re.IGNORECASE)
_TABLE = re.compile(r"mix-[0-9a-f]{12}")
_SIZED = re.compile(rf"{CHOSEN}(?P<count>\d+(\.\d+)?)(?P<unit>{'|'.join(SIZE_UNITS)})", re.IGNORECASE)
_SYNONYMS = {"FP8E4M3": "FP8", "FP6E3M2": "FP6", "FP4E2M1": "FP4"}


def parse(name: str) -> Scheme:
    """Read a scheme name.

    Raises:
        SchemeError: The name does not follow the grammar, or contradicts itself; the message gives an example
            or the remedy.
    """
    text = name.strip()
    for synonym, usual in _SYNONYMS.items():
        text = re.sub(synonym, usual, text, flags=re.IGNORECASE)
    if text.upper() in get_args(MixtureName):
        return Scheme.of_mixture(cast(MixtureName, text.upper()))
    if _TABLE.fullmatch(text):
        return _kept(text)
    if match := _SIZED.fullmatch(text):
        return _chosen_for(name, match)
    if _MIXTURE.fullmatch(text) and text.upper() not in get_args(GgufName):
        return Scheme(special=GgufType(text.upper()))
    if match := _PART.fullmatch(text):
        return _scheme(name, match)
    near = get_close_matches(text.upper(), EXAMPLES, n=1, cutoff=0.7)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SchemeError(
        f"cannot read scheme {name!r}; expected e.g. 'W4A16g64', 'W8A8' or 'W4A4KV4g64-asym' "
        f"(`slmquant schemes` shows the grammar){hint}"
    )


def _kept(name: str) -> Scheme:
    """A mixture that was given weight by weight, if this machine has kept it."""
    types = kept_mixture(name)
    if types is None:
        raise SchemeError(
            f"{name} is a mixture from a file, which its name does not tell; give the file: --mixture FILE"
        )
    return Scheme.of_table({module: parse(kind).weights for module, kind in types.items()})


def _chosen_for(name: str, match: re.Match[str]) -> Scheme:
    unit = next(size for unit, size in SIZE_UNITS.items() if unit.lower() == match["unit"].lower())
    count = Decimal(match["count"]) * unit
    if count < 1 or count % 1:
        raise SchemeError(f"{name!r} is no whole number of bytes; write e.g. 'max-92MB'")
    return Scheme(max_bytes=int(count))


def _scheme(name: str, match: re.Match[str]) -> Scheme:
    symmetric = (match["sym"] or "-sym").lower() == "-sym"
    numbers = _weight_format(match["weights"].upper(), symmetric)
    emb_bits = _bits(match["e"])
    if numbers is None and emb_bits is None and (match["g"] or match["tensor"] or match["sym"] or match["dq"]):
        raise SchemeError(f"{name!r} groups weights but leaves them in 16 bits; give W or E fewer bits")
    if not symmetric and numbers is not None and not isinstance(numbers, IntegerFormat):
        raise SchemeError(f"{name!r} asks for zero points, which only integers have; drop -asym")
    granularity = _granularity(name, match, numbers)
    weights = None if numbers is None else WeightSpec(numbers, granularity, bool(match["dq"]))
    embeddings = None
    if emb_bits is not None:
        like = weights or WeightSpec(IntegerFormat(emb_bits, symmetric), granularity)
        embeddings = embeddings_like(like, emb_bits)
    return Scheme(weights, _activations(name, match, numbers), _kv(match["kv"]), embeddings)


def _weight_format(text: str, symmetric: bool) -> WeightFormat | None:
    if text in get_args(GgufName):
        return GgufType(text)
    if text in _FORMATS:
        return NumberFormat(cast(FloatName, text))
    if text == TernaryFormat.name:
        return TernaryFormat()
    if "." in text:
        raise SchemeError(f"{text[1:]}-bit weights are not supported; expected whole bits, or W1.58 for ternary")
    bits = _bits(text[1:])
    return None if bits is None else IntegerFormat(bits, symmetric)


def _granularity(name: str, match: re.Match[str], numbers: WeightFormat | None) -> Granularity:
    if match["g"] and match["tensor"]:
        raise SchemeError(f"{name!r} asks for groups and for one scale per tensor; drop one of the two")
    block = numbers.block_size if isinstance(numbers, NumberFormat | GgufType) else None
    if block is not None and numbers is not None and (match["g"] or match["tensor"]):
        raise SchemeError(f"{numbers.name} has a fixed group size; write just {numbers.name!r}")
    if match["tensor"]:
        return PerTensor()
    size = int(match["g"]) if match["g"] else block
    return PerChannel() if size is None else PerGroup(size)


def _activations(name: str, match: re.Match[str], numbers: WeightFormat | None) -> ActivationSpec | None:
    static = bool(match["static"])
    text = (match["a"] or "").upper()
    if not text:
        usual = activations_with(numbers)
        spec = None if usual is None else ActivationSpec(usual.bits, static, usual.format)
    elif text.isdigit():
        bits = _bits(text)
        spec = None if bits is None else ActivationSpec(bits, static)
    elif text == "INT":
        raise SchemeError(f"{name!r} does not say how many bits activations have; write e.g. 'W8A8'")
    else:
        spec = ActivationSpec.of(cast(ActivationFormat, text), static)
    if static and spec is None:
        raise SchemeError(f"{name!r} asks for static activations but leaves them in 16 bits; write e.g. 'W8A8-static'")
    return spec


def _kv(text: str | None) -> KvSpec | None:
    if text is None:
        return None
    if text.upper() == "FP8":
        return KvSpec(8, floating=True)
    bits = int(text.rstrip("cC"))
    if bits == FULL_PRECISION_BITS:
        return None
    return KvSpec.kivi(bits) if text[-1] in "cC" else KvSpec(bits)


def _bits(digits: str | None) -> int | None:
    bits = int(digits) if digits else None
    return None if bits == FULL_PRECISION_BITS else bits
