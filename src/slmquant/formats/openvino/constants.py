"""Write weights as compressed constants of a graph, and read them back.

A weight becomes Convert(codes) → Subtract(Convert(zero points)) → Multiply(Convert(scales)) → Reshape, all in float32.
OpenVINO's own compressor writes this pattern, and its CPU plugin multiplies it without unpacking. NNCF writes the chain
in float16; in float32, a device that unpacks the weight gets exactly the same numbers.
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
"""A weight as codes, or as floats of 16 or 32 bits."""


def replace_constants_(graph: ov.Model, stored: Mapping[str, Stored]) -> None:
    """Replace the constant of each parameter with its stored weight; a shared weight is stored once.

    Args:
        graph: The result of `trace`.
        stored: Parameter name → weight to store.

    Raises:
        ModelError: The graph has no constant of that name, or its shape differs.
    """
    constants: dict[str, list[ov.Node]] = {}
    for node in graph.get_ops():
        if node.get_type_name() == "Constant":
            constants.setdefault(node.get_friendly_name(), []).append(node)
    for name, weight in stored.items():
        matches = constants.get(name, [])
        if not matches:
            raise ModelError(f"openvino: the traced graph does not use the parameter {name!r}")
        node = _decompressed(weight, name)
        for constant in matches:
            if list(constant.get_output_shape(0)) != list(node.get_output_shape(0)):
                raise ModelError(
                    f"openvino: {name!r} has shape {list(constant.get_output_shape(0))} in the traced graph, expected "
                    f"{list(node.get_output_shape(0))}"
                )
            for reader in constant.output(0).get_target_inputs():
                reader.replace_source_output(node.output(0))
    graph.validate_nodes_and_infer_types()


def read_weights(graph: ov.Model) -> dict[str, Tensor]:
    """Parameter name → float32 weight, computed by OpenVINO from the constants of `replace_constants_`."""
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
    """A node that computes the float32 weight, with a name that `read_weights` recognizes."""
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
    """A constant called `name`, converted to float32."""
    from openvino import opset15 as ops

    constant = _constant(part)
    constant.set_friendly_name(name)
    return cast("ov.Node", constant if part.type == "f32" else ops.convert(constant, "f32"))


def _constant(part: Part) -> ov.Node:
    """A constant with torch's memory layout; small types are packed from the lowest bits of each byte."""
    import openvino as ov

    values = part.values.detach().contiguous()
    if part.type in ("f16", "f32"):
        values = values.to(torch.float16 if part.type == "f16" else torch.float32)
    bits = BITS[part.type]
    array = values.numpy() if bits >= 8 else pack(values.reshape(1, -1), bits)[0].numpy()
    view = ov.Tensor(array, ov.Shape(list(values.shape)), getattr(ov.Type, part.type))
    return ov.op.Constant(view, shared_memory=False)  # copied, because a tensor does not keep its array alive
