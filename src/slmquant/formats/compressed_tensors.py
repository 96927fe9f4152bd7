"""compressed-tensors: the checkpoint layout of vLLM's own tools, loaded by transformers and vLLM.

A weight of `(out, in)` becomes, depending on its numbers:

* integers, `pack-quantized`: `weight_packed`, int32 `(out, ceil(in·bits/32))`, unsigned codes, the first in the
  lowest bits; `weight_shape`; if asymmetric, `weight_zero_point`, packed along the outputs;
* 8-bit integers with 8-bit integer activations, `int-quantized`: `weight`, int8;
* FP8 E4M3, `float-quantized`: `weight`, float8;
* NVFP4 and MXFP4, `nvfp4-pack-quantized` and `mxfp4-pack-quantized`: `weight_packed`, uint8 `(out, in/2)`, the first
  code in the lower half; their scales are stored as codes, NVFP4's divided by `weight_global_scale`, float32 `(1,)`;

and `weight_scale`, `(out, groups)`, in float16 for scales per group and in float32 for scales per channel. A per-tensor
scale is repeated for each channel. Calibrated scales of inputs are stored in `input_scale`, float32 `(1,)`. If a
mixture file gives linears different types, each type is a group of `config_groups` that lists its linears by name.

*Deviations*: NVFP4's per-tensor scale is stored inverted, as the layout requires: half a float32 rounding each way.
Embeddings and head stay in 16 bits: the package can pack them, but vLLM does not load them packed.

Where engines compute something other than the evaluated model:

* transformers rounds 8-bit integer activations with the scale `max|x| / 127.5` per token; slmquant and vLLM's kernels
  use `max|x| / 127`. On the same input nothing else differs. Over a whole model, rounded activations amplify any
  difference, even in the last digit of a float32: compare with the effect of such a disturbance in slmquant itself.
* transformers (5.23, with compressed-tensors 0.20) unpacks NVFP4 to bfloat16, and integers with zero points to
  float16; it does not load packed zero points together with rounded activations.
* vLLM holds group scales in the model's dtype: with `--dtype float16` they are unchanged; in bfloat16 they lose three
  bits. For NVFP4 it uses one per-tensor scale for q, k and v together.
* vLLM multiplies with q, k and v together, and with gate and up: a mixture must give each of these sets one type.
* vLLM has kernels for fewer combinations than the format allows (4 and 8 bits; groups of 32, 64 and 128; channels).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from pydantic import JsonValue
from torch import Tensor

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.elements import TABLES, Integers
from slmquant.core.scales import Plain
from slmquant.errors import UnavailableError
from slmquant.formats.common.checkpoint_folder import Checkpoint, no_side, ragged
from slmquant.formats.common.entries import describe
from slmquant.formats.common.integer_words import not_plain
from slmquant.model.sources import packed_layouts
from slmquant.model.sources.packed_layouts import FP4_SCALES, CompressedKind
from slmquant.schemes import ActivationSpec, Scheme

EXTRA = "compressed-tensors"


@dataclass(frozen=True)
class _CompressedTensors:
    method = "compressed-tensors"
    mixes = True

    def refusal(self, scheme: Scheme) -> str | None:
        """Accepts A8 or AFP8 with integer weights, and AFP8 with FP8; the layout rounds others in another way."""
        spec = scheme.activations
        if spec is None:
            return None
        if scheme.weights is None:
            return f"{scheme} rounds activations alone, which no engine of this format does; quantize the weights, too"
        if spec.format in ("MXFP4", "NVFP4"):
            rule = "a calibrated per-tensor scale" if spec.format == "NVFP4" else "another rule for the exponent"
            return f"{spec.format} activations have {rule} in this format; use {scheme.weights.format.name}A16"
        integers = scheme.weights.format.name.startswith("W")
        if spec.format == "FP8" or (spec.format == "INT" and spec.bits == 8 and integers):
            return None
        return f"A{spec.name} with {scheme.weights.format.name} weights is not supported; use A16, A8 or AFP8"

    def misfit(self, weight: QuantizedTensor) -> str | None:
        """Accepts integers with plain scales, E4M3 per channel, NVFP4 and MXFP4; groups must divide the inputs."""
        elements, storage = weight.grid.elements, weight.grid.storage
        if (reason := no_side(weight)) is not None:
            return reason
        if isinstance(elements, Integers):
            return not_plain(weight) or ragged(weight)
        if elements == TABLES["E4M3"] and isinstance(storage, Plain):
            return None if weight.grid.group_size == sys.maxsize else "FP8 is supported with one scale per channel only"
        if elements == TABLES["E2M1"] and storage in FP4_SCALES.values():
            return ragged(weight)
        return f"{elements.name} with {storage.name} scales is not supported; INT, FP8, NVFP4 and MXFP4 are"

    def stored(self, weight: QuantizedTensor, scheme: Scheme) -> str:
        """The layout's name for the numbers, and their description."""
        return f"{_kind(weight.grid, scheme.activations)} {describe(weight)}"

    def encode(self, weight: QuantizedTensor, scheme: Scheme, input_scale: float | None) -> dict[str, Tensor]:
        """The tensors of a packed linear, depending on its numbers."""
        kind = _kind(weight.grid, scheme.activations)
        tensors = {} if input_scale is None else {"input_scale": torch.tensor([input_scale])}
        if kind in FP4_SCALES:
            tensors |= {"weight_packed": weight.grid.elements.pack(weight.codes), "weight_scale": weight.parts["scale"]}
            if kind == "nvfp4-pack-quantized":
                tensors["weight_global_scale"] = 1 / weight.parts["tensor_scale"].flatten()
                tensors["weight_scale"] = weight.parts["scale"].view(torch.float8_e4m3fn)
            return tensors
        dtype = torch.float32 if weight.grid.group_size == sys.maxsize else torch.float16
        tensors["weight_scale"] = weight.scale.expand(weight.codes.shape[0], -1).to(dtype)
        if kind == "float-quantized":
            return tensors | {"weight": weight.codes.view(torch.float8_e4m3fn)}
        codes, zeros = _signed(weight.codes, weight.bits), weight.zero_point
        if zeros is not None:
            zeros = _signed(zeros.expand(tensors["weight_scale"].shape), weight.bits)
        if kind == "int-quantized":
            return tensors | {"weight": codes} | ({} if zeros is None else {"weight_zero_point": zeros})
        pack_to_int32 = _package("compressors.pack_quantized.helpers").pack_to_int32
        tensors["weight_packed"] = pack_to_int32(codes, weight.bits)
        tensors["weight_shape"] = torch.tensor(codes.shape)
        if zeros is not None:
            tensors["weight_zero_point"] = pack_to_int32(zeros, weight.bits, packed_dim=0)
        return tensors

    def settings(
        self, scheme: Scheme, packed: Mapping[str, QuantizedTensor], left_out: Sequence[str]
    ) -> dict[str, JsonValue]:
        """The settings that compressed-tensors writes: a group of linears for each type."""
        package, quantization = _package(), _package("quantization")
        inputs = None if scheme.activations is None else quantization.QuantizationArgs(**_inputs(scheme.activations))
        types: dict[tuple[CompressedKind, str], dict[str, QuantizedTensor]] = {}
        for name, weight in packed.items():
            kind = _kind(weight.grid, scheme.activations)
            types.setdefault((kind, str(_weights(weight.grid, kind))), {})[name] = weight
        groups = {
            f"group_{number}": quantization.QuantizationScheme(
                targets=["Linear"] if len(types) == 1 else list(linears),
                weights=quantization.QuantizationArgs(**_weights(next(iter(linears.values())).grid, kind)),
                input_activations=inputs,
                format=kind,
            )
            for number, ((kind, _), linears) in enumerate(types.items())
        }
        kinds = {kind for kind, _ in types}
        config = quantization.QuantizationConfig(
            config_groups=groups,
            format=kinds.pop() if len(kinds) == 1 else "mixed-precision",
            quantization_status="compressed",
            ignore=list(left_out),
        )
        settings: dict[str, JsonValue] = config.model_dump(mode="json", exclude_none=True)
        return {**settings, "quant_method": self.method, "version": package.__version__}

    def packs(self, parts: Mapping[str, Tensor]) -> bool:
        """Whether the tensors are a packed weight: scales and codes; one without the other counts, but is damaged."""
        return "weight_scale" in parts or "weight_packed" in parts

    def decode(self, settings: Mapping[str, JsonValue], parts: Mapping[str, Tensor]) -> Tensor:
        """Compute `scale · (element(code) − zero point)`."""
        return packed_layouts.compressed_tensors(settings, parts)


def _kind(grid: Grid, activations: ActivationSpec | None) -> CompressedKind:
    """The layout's name for the numbers of a weight that fits."""
    for fp4, storage in FP4_SCALES.items():
        if storage == grid.storage and not grid.uniform:
            return fp4
    if not grid.uniform:
        return "float-quantized"
    whole_bytes = grid.bits == 8 and activations is not None and activations.format == "INT"
    return "int-quantized" if whole_bytes else "pack-quantized"


def _weights(grid: Grid, kind: CompressedKind) -> dict[str, object]:
    """Arguments of `QuantizationArgs` for weights."""
    arguments: dict[str, object] = {"num_bits": grid.bits, "type": "int" if grid.uniform else "float"}
    arguments["symmetric"] = grid.symmetric
    if grid.group_size == sys.maxsize:
        return arguments | {"strategy": "channel"}
    arguments |= {"strategy": "group", "group_size": grid.group_size}
    if kind == "nvfp4-pack-quantized":
        arguments |= {"strategy": "tensor_group", "scale_dtype": torch.float8_e4m3fn, "zp_dtype": torch.float8_e4m3fn}
    elif kind == "mxfp4-pack-quantized":
        arguments |= {"scale_dtype": torch.uint8, "zp_dtype": torch.uint8}
    return arguments


def _inputs(spec: ActivationSpec) -> dict[str, object]:
    """Arguments of `QuantizationArgs` for activations."""
    return {
        "num_bits": 8,
        "type": "int" if spec.format == "INT" else "float",
        "symmetric": True,
        "strategy": "tensor" if spec.static else "token",
        "dynamic": not spec.static,
    }


def _signed(codes: Tensor, bits: int) -> Tensor:
    """Codes as signed int8, as the layout stores them."""
    if codes.dtype == torch.int8:
        return codes
    around_zero: Tensor = codes.to(torch.int16) - 2 ** (bits - 1)
    return around_zero.to(torch.int8)


def _package(module: str = "") -> ModuleType:
    """Import the compressed-tensors package, or one of its modules.

    Raises:
        UnavailableError: It is not installed.
    """
    from importlib import import_module

    try:
        return import_module(f"compressed_tensors.{module}".rstrip("."))
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("compressed_tensors"):
            raise
        raise UnavailableError(f"compressed-tensors is not installed; pip install 'slmquant[{EXTRA}]'") from error


FORMAT = Checkpoint(
    name="compressed_tensors",
    title="compressed-tensors",
    summary="safetensors with INT2 to INT8, W8A8, FP8, NVFP4 or MXFP4 weights, for transformers and vLLM",
    extra=EXTRA,
    layout=_CompressedTensors(),
)
