"""Weights as constants of a graph: put in place of dense ones, and read back.

Convert(codes) → Subtract(Convert(zero points)) → Multiply(Convert(scales)) → Reshape, all in float32: the pattern
that OpenVINO's own compressor writes, and its CPU plugin multiplies without unpacking. NNCF writes the chain in
float16; in float32 the graph says the same weight also to a device that unpacks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from slmquant.core.pack import pack
from slmquant.errors import ModelError
from slmquant.formats.openvino.layout import BITS, Compressed, Part

if TYPE_CHECKING:
    import openvino as ov

Stored = Compressed | Part
"""A weight as codes, or as 16- or 32-bit floats."""


def replace_constants_(graph: ov.Model, stored: Mapping[str, Stored]) -> None:
    """Put each stored weight where the constant of its parameter is; one read in two places is stored once.

    Args:
        graph: What `trace` gave.
        stored: Parameter name → what to store.

    Raises:
        ModelError: The graph has no constant of that name, or one of another shape.
    """
    constants: dict[str, list[ov.Node]] = {}
    for node in graph.get_ops():
        if node.get_type_name() == "Constant":
            constants.setdefault(node.get_friendly_name(), []).append(node)
    for name, weight in stored.items():
        found = constants.get(name, [])
        if not found:
            raise ModelError(f"openvino: the traced graph does not read {name!r}")
        node = _decompressed(weight, name)
        for constant in found:
            if list(constant.get_output_shape(0)) != list(node.get_output_shape(0)):
                raise ModelError(f"openvino: {name!r} is traced as {list(constant.get_output_shape(0))}")
            for reader in constant.output(0).get_target_inputs():
                reader.replace_source_output(node.output(0))
    graph.validate_nodes_and_infer_types()


def read_weights(graph: ov.Model) -> dict[str, Tensor]:
    """Parameter name → float32 weight, computed by OpenVINO from the constants that `replace_constants_` put there."""
    import openvino as ov

    core = ov.Core()
    weights = {}
    for node in graph.get_ops():
        name = node.get_friendly_name()
        if not name.endswith(_DENSE):
            continue
        alone = ov.Model([ov.opset15.result(node.output(0))], [])
        compiled = core.compile_model(alone, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        weights[name.removesuffix(_DENSE)] = torch.from_numpy(compiled([])[0].copy())
    return weights


_DENSE = "/dense"


def _decompressed(weight: Stored, name: str) -> ov.Node:
    """The float32 weight, named so that `read_weights` finds it."""
    from openvino import opset15 as ops

    if isinstance(weight, Part):
        node = _float32(weight, f"{name}/values")
    else:
        node = _float32(weight.codes, f"{name}/codes")
        if weight.zero_point is not None:
            node = ops.subtract(node, _float32(weight.zero_point, f"{name}/zero_point"))
        node = ops.multiply(node, _float32(weight.scale, f"{name}/scale"))
        codes = weight.codes.values
        if codes.dim() == 3:
            node = ops.reshape(node, np.array([codes.shape[0], -1]), special_zero=False)
    node.set_friendly_name(f"{name}{_DENSE}")
    return cast("ov.Node", node)


def _float32(part: Part, name: str) -> ov.Node:
    """A constant under that name, converted."""
    from openvino import opset15 as ops

    constant = _constant(part)
    constant.set_friendly_name(name)
    return cast("ov.Node", constant if part.type == "f32" else ops.convert(constant, "f32"))


def _constant(part: Part) -> ov.Node:
    """Values in OpenVINO's memory layout: as they lie in torch, packed from the lowest bits of each byte."""
    import openvino as ov

    values = part.values.detach().contiguous()
    if part.type in ("f16", "f32"):
        values = values.to(torch.float16 if part.type == "f16" else torch.float32)
    bits = BITS[part.type]
    array = values.numpy() if bits >= 8 else pack(values.reshape(1, -1), bits)[0].numpy()
    view = ov.Tensor(array, ov.Shape(list(values.shape)), getattr(ov.Type, part.type))
    return ov.op.Constant(view, shared_memory=False)  # a tensor does not keep the array alive that it views
