"""Decode packed checkpoints: GPTQ, AWQ, compressed-tensors and FP8 tensors to float32 weights.

The layouts are described where slmquant writes them (`formats.gptq`, `formats.awq`, `formats.compressed_tensors`). FP8
is transformers' `fp8` layout: `weight` in E4M3 and `weight_scale_inv`, which, despite its name, is multiplied with a
block of the weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import BaseModel, JsonValue
from torch import Tensor

from slmquant.core import groups
from slmquant.core.elements import TABLES
from slmquant.core.pack import packed_bytes, unpack
from slmquant.core.scales import PowerOfTwo, ScaleStorage, TensorScaled

Settings = Mapping[str, JsonValue]
"""`quantization_config` of a `config.json`."""
Parts = Mapping[str, Tensor]
"""Tensors of one module, by the last part of their names."""

GPTQ_BITS = (2, 3, 4, 8)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Index of the output in each four bits of a word, from the lowest bits upwards."""
WORD = 32

CompressedKind = Literal[
    "pack-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized"
]
FP4_SCALES: dict[CompressedKind, ScaleStorage] = {
    "nvfp4-pack-quantized": TensorScaled(),
    "mxfp4-pack-quantized": PowerOfTwo(),
}


@dataclass(frozen=True)
class PackedLayout:
    """One layout of packed weights.

    Attributes:
        title: Its common name.
        marks: A module with a tensor of one of these names is packed; with only one of them it counts, but is damaged.
        parts: All names that a packed module's tensors may have.
        decode: Computes the float32 weight `(out, in)` of a module. Raises KeyError for a missing tensor, ValueError
            for tensors or settings that are invalid for the layout.
    """

    title: str
    marks: frozenset[str]
    parts: frozenset[str]
    decode: Callable[[Settings, Parts], Tensor]

    def packs(self, parts: Parts) -> bool:
        """Whether the tensors of a module are a packed weight."""
        return not self.marks.isdisjoint(parts)


class _GptqSettings(BaseModel):
    bits: int
    group_size: int
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"


class _AwqSettings(BaseModel):
    bits: Literal[4]
    group_size: int
    version: Literal["gemm"] = "gemm"


class _CompressedWeights(BaseModel):
    num_bits: int
    symmetric: bool
    strategy: Literal["tensor", "channel", "group", "tensor_group"]
    group_size: int | None = None


class _CompressedGroup(BaseModel):
    weights: _CompressedWeights
    format: CompressedKind


class _CompressedSettings(BaseModel):
    """Settings of one module: with a single group of linears."""

    config_groups: dict[str, _CompressedGroup]


class _Fp8Settings(BaseModel):
    weight_block_size: tuple[int, int] | None = None


def gptq(settings: Settings, parts: Parts) -> Tensor:
    """Compute `scale · (code − zero point)`; groups may be in any order (`g_idx`)."""
    said = _GptqSettings.model_validate(settings)
    if said.bits not in GPTQ_BITS:
        raise ValueError(f"codes have {said.bits} bits, expected one of {GPTQ_BITS}")
    scales = parts["scales"].float().T
    inputs = parts["qweight"].shape[0] * WORD // said.bits
    codes = gptq_codes(parts["qweight"].T, said.bits, inputs)
    zeros = gptq_codes(parts["qzeros"], said.bits, scales.shape[0]).T
    if said.checkpoint_format == "gptq":
        zeros = (zeros + 1) % 2**said.bits
    group = parts["g_idx"].long()
    if group.shape != (inputs,) or not 0 <= int(group.min()) <= int(group.max()) < scales.shape[1]:
        raise ValueError(f"g_idx does not map each of {inputs} inputs to one of {scales.shape[1]} groups")
    return scales[:, group] * (codes - zeros[:, group])


def gptq_codes(words: Tensor, bits: int, size: int) -> Tensor:
    """Unpack rows of int32 into `size` unsigned codes each, in float32."""
    return unpack(words.contiguous().view(torch.uint8), bits, size, signed=False).float()


def awq(settings: Settings, parts: Parts) -> Tensor:
    """Compute `scale · (code − zero point)`."""
    said = _AwqSettings.model_validate(settings)
    codes, zeros, scales = _awq_codes(parts["qweight"]), _awq_codes(parts["qzeros"]), parts["scales"].float().T
    inputs = codes.shape[1]
    size = inputs if said.group_size == -1 else said.group_size
    if scales.shape != (codes.shape[0], groups.count(inputs, size)):
        raise ValueError(f"scales of shape {tuple(scales.T.shape)} do not match groups of {said.group_size}")
    return groups.expand(scales, size, inputs) * (codes - groups.expand(zeros, size, inputs))


def _awq_codes(words: Tensor) -> Tensor:
    """Unpack interleaved words of outputs into `(out, in)` or `(out, groups)` unsigned codes, in float32."""
    interleaved = unpack(words.contiguous().view(torch.uint8), 4, words.shape[1] * len(AWQ_ORDER), signed=False)
    back = [AWQ_ORDER.index(place) for place in range(len(AWQ_ORDER))]
    codes: Tensor = interleaved.unflatten(1, (-1, len(AWQ_ORDER)))[..., back]
    return codes.flatten(1).T.float()


def of_module(settings: Settings, module: str) -> Settings:
    """The settings of one module: of several groups of linears (compressed-tensors), only the one that it belongs to.

    Groups name their linears, or a pattern of names (`re:...`), or the class `Linear`; a name goes before a pattern,
    and a pattern before the class.

    Raises:
        ValueError: It belongs to no group.
    """
    several = settings.get("config_groups")
    if not isinstance(several, dict) or len(several) < 2:
        return settings
    places = {name: _place(group, module) for name, group in several.items()}
    name = min(places, key=lambda group: places[group])
    if places[name] == _NOWHERE:
        raise ValueError(f"{module!r} has packed tensors and belongs to none of the groups {', '.join(several)}")
    group = several[name]
    assert isinstance(group, dict)  # noqa: S101  # it has targets
    return {**settings, "config_groups": {name: {"format": settings.get("format"), **group}}}


_NOWHERE = 3


def _place(group: JsonValue, module: str) -> int:
    """How closely a group names a module: 0 by name, 1 by a pattern, 2 by class, 3 not at all."""
    found = group.get("targets") if isinstance(group, dict) else None
    targets = [str(target) for target in found] if isinstance(found, list) else []
    if module in targets:
        return 0
    patterns = [target.removeprefix("re:") for target in targets if target.startswith("re:")]
    if any(re.match(pattern, module) for pattern in patterns):
        return 1
    return 2 if "Linear" in targets else _NOWHERE


def compressed_tensors(settings: Settings, parts: Parts) -> Tensor:
    """Compute `scale · (element(code) − zero point)`."""
    (group,) = _CompressedSettings.model_validate(settings).config_groups.values()
    said, scale = group.weights, parts["weight_scale"]
    zeros = parts.get("weight_zero_point")
    if group.format in FP4_SCALES:
        scale, packed = _fp4_scale(group.format, parts), parts["weight_packed"]
        values = TABLES["E2M1"].values(unpack(packed, 4, 2 * packed.shape[1], signed=False))
    elif group.format == "pack-quantized":
        rows, inputs = (int(n) for n in parts["weight_shape"])
        values = _around_zero(parts["weight_packed"], said.num_bits, inputs)
        zeros = None if zeros is None else _around_zero(zeros.T, said.num_bits, rows).T
    else:
        values = parts["weight"].float()
    if (zeros is None) != said.symmetric:
        raise ValueError(
            f"symmetric is {said.symmetric}, but zero points are {'absent' if zeros is None else 'present'}"
        )
    if said.strategy == "tensor":
        scale = scale.reshape(1, 1).expand(values.shape[0], 1)
        zeros = None if zeros is None else zeros.reshape(1, 1).expand(values.shape[0], 1)
    grouped = said.group_size is not None and said.strategy in ("group", "tensor_group")
    size = said.group_size if grouped and said.group_size else values.shape[1]
    if scale.shape != (values.shape[0], groups.count(values.shape[1], size)):
        raise ValueError(f"scales of shape {tuple(scale.shape)} do not match groups of {size}")
    if zeros is not None:
        values = values - groups.expand(zeros.float(), size, values.shape[1])
    return values * groups.expand(scale.float(), size, values.shape[1])


def _around_zero(words: Tensor, bits: int, size: int) -> Tensor:
    """Unpack rows of int32 into `size` signed codes each, in float32."""
    octets = words.contiguous().view(torch.uint8)[:, : packed_bytes(size, bits)]
    centred: Tensor = unpack(octets, bits, size, signed=False).float() - 2 ** (bits - 1)
    return centred


def _fp4_scale(kind: CompressedKind, parts: Parts) -> Tensor:
    if kind == "mxfp4-pack-quantized":
        return PowerOfTwo().decode({"scale": parts["weight_scale"]}).scale
    return parts["weight_scale"].float() / parts["weight_global_scale"]


def fp8(settings: Settings, parts: Parts) -> Tensor:
    """Compute `scale · element(code)`, with one scale per block of rows and columns, or one per tensor."""
    said = _Fp8Settings.model_validate(settings)
    values, scale = parts["weight"].float(), parts["weight_scale_inv"].float()
    if scale.numel() == 1:
        return values * scale.reshape(1, 1)
    if said.weight_block_size is None:
        raise ValueError(f"scales of shape {tuple(scale.shape)} need a weight_block_size, which is missing")
    rows, columns = said.weight_block_size
    if scale.shape != tuple(-(-size // block) for size, block in zip(values.shape, (rows, columns), strict=True)):
        raise ValueError(f"scales of shape {tuple(scale.shape)} do not match blocks of {rows} × {columns}")
    scales = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return values * scales[: values.shape[0], : values.shape[1]]


LAYOUTS: Mapping[str, PackedLayout] = MappingProxyType(
    {
        "gptq": PackedLayout(
            "GPTQ",
            frozenset({"qweight", "scales"}),
            frozenset({"qweight", "qzeros", "scales", "g_idx"}),
            gptq,
        ),
        "awq": PackedLayout("AWQ", frozenset({"qweight", "scales"}), frozenset({"qweight", "qzeros", "scales"}), awq),
        "compressed-tensors": PackedLayout(
            "compressed-tensors",
            frozenset({"weight_scale", "weight_packed"}),
            frozenset(
                {"weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale"}
            ),
            compressed_tensors,
        ),
        "fp8": PackedLayout("FP8", frozenset({"weight_scale_inv"}), frozenset({"weight", "weight_scale_inv"}), fp8),
    }
)
"""Layouts by `quant_method`."""
