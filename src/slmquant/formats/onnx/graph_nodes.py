"""Adds nodes and constants to an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir


def node_output(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    nodes: list[ir.Node],
    *,
    domain: str = "",
    **attributes: int | Sequence[int] | None,
) -> ir.Value:
    """Append a node to `nodes` and return its output."""
    import onnx_ir as ir

    nodes.append(ir.node(op_type, inputs, attributes, domain=domain))
    return nodes[-1].outputs[0]


def initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Register a constant in `graph` and return it."""
    import onnx_ir as ir

    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
