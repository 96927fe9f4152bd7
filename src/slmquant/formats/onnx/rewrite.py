"""Turn a float graph into a quantized one: find every weight matrix by its values, and replace it.

The builder stacks projections that read the same input, or splits those that a model stacks, and chooses its own names.
So a matrix of the graph is matched by the values of its rows, not by name: either exactly the evaluated weight is
stored, or a weight is not found and nothing is written. Nodes that convert stored scales and weights to the types that
the operators need depend on constants only, so ONNX Runtime computes them once, on loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from slmquant.errors import RefusedError
from slmquant.formats.onnx.blocks import Blocks, Dense, Stored, joined
from slmquant.formats.onnx.channels import Channels
from slmquant.formats.onnx.graph_nodes import initializer, node_output
from slmquant.formats.onnx.row_index import RowIndex, Rows
from slmquant.formats.onnx.token_rounding import TokenRounding

if TYPE_CHECKING:
    import onnx_ir as ir

ACCURACY_LEVEL = 4
"""Accuracy level of `MatMulNBits`: inputs are rounded to 8 bits with one scale per block; its fast kernels need it."""
_INLINE_BYTES = 1024
"""Smaller tensors stay inside the graph file, because shape inference needs some of them."""
_CONTRIB = "com.microsoft"


class Matrix(BaseModel):
    """A stored matrix: its name in the graph, its rows and its number format.

    Its tensors are the initializers `name.codes`, `name.scale` and, if it has one, `name.zero_point`; or `name.floats`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    rows: tuple[Rows, ...]
    bits: int | None = None
    """Bits per code; None for floats."""
    block_size: int | None = None
    """Inputs per stored scale; None for floats, and for codes with one scale per row (`Channels`)."""
    in_features: int


class Rewriting:
    """Rewrites one float graph to quantized weights.

    Args:
        model: The float graph; it is changed in place.
        dense: Module name → the float32 weight that the graph was built from.
        stored: Module name → the weight to store.
    """

    def __init__(self, model: ir.Model, dense: Mapping[str, Tensor], stored: Mapping[str, Stored]) -> None:
        self._graph = model.graph
        self._rows = RowIndex(dense)
        self._stored = stored
        self._held: dict[tuple[Rows, ...], list[_Held]] = {}
        self._rounding = TokenRounding(model)
        self.matrices: list[Matrix] = []

    def apply_(self) -> None:
        """Replace every multiplication with a weight of the model, and every lookup in one.

        Raises:
            RefusedError: Rows of a weight are missing from the graph.
        """
        for node in list(self._graph):
            if node.op_type == "MatMul" and (weight := _constant(node, 1)) is not None:
                if (rows := self._rows.find(weight.T)) is not None:
                    self._replace_(node, 1, self._multiplied(node, rows))
            elif (
                node.op_type == "Gather"
                and (weight := _constant(node, 0)) is not None
                and (rows := self._rows.find(weight)) is not None
            ):
                self._replace_(node, 0, self._looked_up(node, rows))
        replaced = {rows for matrix in self.matrices for rows in matrix.rows}
        for module, stored in self._stored.items():
            if sum(rows.stop - rows.start for rows in replaced if rows.module == module) < _row_count(stored):
                raise RefusedError(f"onnx: the builder's graph does not contain the weight of {module!r} unchanged")

    def _replace_(self, node: ir.Node, argument: int, nodes: list[ir.Node]) -> None:
        from onnx_ir.convenience import replace_nodes_and_values

        weight, new = node.inputs[argument], nodes[-1].outputs[0]
        new.name, new.type, new.shape = node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape
        replace_nodes_and_values(self._graph, node, [node], nodes, node.outputs, nodes[-1].outputs)
        if weight is not None and weight.name is not None and not weight.uses():
            del self._graph.initializers[weight.name]

    def _multiplied(self, node: ir.Node, rows: tuple[Rows, ...]) -> list[ir.Node]:
        import onnx_ir as ir

        nodes: list[ir.Node] = []
        outputs = [self._product(node.inputs[0], held, nodes) for held in self._hold(rows)]
        if len(outputs) > 1:
            nodes.append(ir.node("Concat", outputs, {"axis": -1}))
        return nodes

    def _product(self, inputs: ir.Value | None, held: _Held, nodes: list[ir.Node]) -> ir.Value:
        """Append the nodes that multiply with a matrix; returns their result."""
        if held.matrix.bits is None:
            weight = node_output("Transpose", [held.float32("floats", nodes)], nodes, perm=[1, 0])
            return node_output("MatMul", [inputs, weight], nodes)
        if held.matrix.block_size is None:
            weight = node_output("Transpose", [held.codes], nodes, perm=[1, 0])
            return self._rounding.product(
                inputs, weight, held.values["zero_point"], held.float32("scale", nodes), nodes
            )
        return node_output(
            "MatMulNBits",
            [inputs, held.codes, held.float32("scale", nodes), *held.zero_point],
            nodes,
            domain=_CONTRIB,
            K=held.matrix.in_features,
            N=sum(r.stop - r.start for r in held.matrix.rows),
            bits=held.matrix.bits,
            block_size=held.matrix.block_size,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _looked_up(self, node: ir.Node, rows: tuple[Rows, ...]) -> list[ir.Node]:
        import onnx_ir as ir

        nodes: list[ir.Node] = []
        (held,) = self._hold(rows)
        if held.matrix.bits is None:
            rows_read = node_output("Gather", [held.values["floats"], node.inputs[1]], nodes, axis=0)
            if held.values["floats"].dtype != ir.DataType.FLOAT:
                node_output("Cast", [rows_read], nodes, to=ir.DataType.FLOAT)
            return nodes
        shape = initializer(self._graph, f"{held.matrix.name}.flat", np.array([rows[0].stop, -1]))
        codes = node_output("Reshape", [held.codes, shape], nodes)
        node_output(
            "GatherBlockQuantized",
            [codes, node.inputs[1], held.float32("scale", nodes), *held.zero_point],
            nodes,
            domain=_CONTRIB,
            bits=held.matrix.bits,
            block_size=held.matrix.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        return nodes

    def _hold(self, rows: tuple[Rows, ...]) -> list[_Held]:
        """Add the tensors of stacked rows to the graph; those of a tied weight only once."""
        if rows not in self._held:
            parts = [self._stored[r.module].rows(r.start, r.stop) for r in rows]
            merged, held, left = joined(parts), [], list(rows)
            for part in merged:
                taken = [left.pop(0)]
                while sum(r.stop - r.start for r in taken) < _row_count(part):
                    taken.append(left.pop(0))
                held.append(self._add(part, tuple(taken)))
            self._held[rows] = held
        return self._held[rows]

    def _add(self, stored: Stored, rows: tuple[Rows, ...]) -> _Held:
        name = "+".join(r.module if r.start == 0 else f"{r.module}[{r.start}:]" for r in rows)
        tensors = tensors_of(stored)
        values = {part: initializer(self._graph, f"{name}.{part}", tensor.numpy()) for part, tensor in tensors.items()}
        in_features = stored.in_features if isinstance(stored, Blocks) else _matrix(stored).shape[1]
        matrix = Matrix(
            name=name,
            rows=rows,
            bits=None if isinstance(stored, Dense) else 8 if isinstance(stored, Channels) else stored.bits,
            block_size=stored.block_size if isinstance(stored, Blocks) else None,
            in_features=in_features,
        )
        self.matrices.append(matrix)
        return _Held(matrix, values)


class _Held:
    """A matrix that was added to the graph, with its values."""

    def __init__(self, matrix: Matrix, values: Mapping[str, ir.Value]) -> None:
        self.matrix, self.values = matrix, values

    @property
    def codes(self) -> ir.Value:
        return self.values["codes"]

    @property
    def zero_point(self) -> list[ir.Value]:
        return [self.values["zero_point"]] if "zero_point" in self.values else []

    def float32(self, part: str, nodes: list[ir.Node]) -> ir.Value:
        """A part in float32; adds a `Cast` node if it is stored in another type."""
        import onnx_ir as ir

        value = self.values[part]
        return value if value.dtype == ir.DataType.FLOAT else node_output("Cast", [value], nodes, to=ir.DataType.FLOAT)


def tensors_of(stored: Stored) -> dict[str, Tensor]:
    """The tensors of a stored weight, by the last part of their names."""
    if isinstance(stored, Dense):
        return {"floats": stored.weight}
    tensors = {"codes": stored.codes, "scale": stored.scale}
    return tensors if stored.zero_point is None else {**tensors, "zero_point": stored.zero_point}


def stored_of(tensors: Mapping[str, Tensor], matrix: Matrix) -> Stored:
    """Inverse of `tensors_of`.

    Raises:
        KeyError: A tensor is missing.
    """
    if matrix.bits is None:
        return Dense(tensors["floats"])
    if matrix.block_size is None:
        return Channels(tensors["codes"], tensors["scale"], tensors["zero_point"])
    return Blocks(
        in_features=matrix.in_features,
        bits=matrix.bits,
        block_size=matrix.block_size,
        codes=tensors["codes"],
        scale=tensors["scale"],
        zero_point=tensors.get("zero_point"),
    )


def save(model: ir.Model, path: Path) -> None:
    """Write a graph, with its tensors in a second file next to it."""
    import onnx_ir as ir

    model.graph.sort()
    ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=_INLINE_BYTES)


def initializers(model: ir.Model) -> dict[str, Tensor]:
    """The tensors of a graph by name, copied into memory."""
    constants = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: torch.from_numpy(tensor.numpy().copy()) for name, tensor in constants.items() if tensor is not None}


def _constant(node: ir.Node, argument: int) -> NDArray[np.float32] | None:
    """A constant float32 matrix among a node's inputs; None if the input is anything else."""
    value = node.inputs[argument]
    if value is None or value.const_value is None:
        return None
    array = value.const_value.numpy()
    return array if array.ndim == 2 and array.dtype == np.float32 else None


def _matrix(stored: Channels | Dense) -> Tensor:
    return stored.weight if isinstance(stored, Dense) else stored.codes


def _row_count(stored: Stored) -> int:
    return len(stored.codes) if isinstance(stored, Blocks) else len(_matrix(stored))
