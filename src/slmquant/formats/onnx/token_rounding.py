"""Nodes that round activations to 8 bits with one scale per token, as `core.tokens` does, and multiply integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slmquant.formats.onnx.channels import MIDDLE
from slmquant.formats.onnx.graph_nodes import initializer, node_output

if TYPE_CHECKING:
    import onnx_ir as ir

_HIGHEST = 127.0
_SMALLEST_SCALE = np.finfo(np.float32).tiny


class TokenRounding:
    """Rounds the inputs of linears; those that read the same tensor share its codes.

    Args:
        model: The graph to add constants to.
    """

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._constants: dict[str, ir.Value] = {}
        self._codes: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def product(
        self,
        inputs: ir.Value | None,
        weight: ir.Value,
        zero_point: ir.Value,
        scale: ir.Value,
        nodes: list[ir.Node],
    ) -> ir.Value:
        """Append the nodes of `dequantize(round(inputs)) @ weight`; returns its result.

        Args:
            inputs: `(batch, seq, in)` in float32.
            weight: `(in, out)` unsigned codes.
            zero_point: `(out,)`.
            scale: `(out,)` in float32.
            nodes: Receives the nodes.
        """
        import onnx_ir as ir

        assert inputs is not None, "a product has a left operand"  # noqa: S101
        if inputs not in self._codes:
            self._codes[inputs] = self._rounded(inputs, nodes)
        codes, token_scale = self._codes[inputs]
        middle = self._constant("middle", np.array(MIDDLE, dtype=np.uint8))
        sums = node_output("MatMulInteger", [codes, weight, middle, zero_point], nodes)
        floats = node_output("Cast", [sums], nodes, to=ir.DataType.FLOAT)
        return node_output("Mul", [node_output("Mul", [floats, token_scale], nodes), scale], nodes)

    def _rounded(self, inputs: ir.Value, nodes: list[ir.Node]) -> tuple[ir.Value, ir.Value]:
        """Codes and scale of each token; a token of zeros has codes of zero, whatever its scale."""
        one, middle = (
            self._constant("one", np.array(1, dtype=np.float32)),
            self._constant("middle", np.array(MIDDLE, dtype=np.uint8)),
        )
        last = self._constant("last_axis", np.array([-1], dtype=np.int64))
        highest = self._constant("highest", np.array(_HIGHEST, dtype=np.float32))
        smallest = self._constant("smallest", np.array(_SMALLEST_SCALE, dtype=np.float32))
        largest = node_output("ReduceMax", [node_output("Abs", [inputs], nodes), last], nodes, keepdims=1)
        scale = node_output("Max", [node_output("Div", [largest, highest], nodes), smallest], nodes)
        unscaled = node_output("Div", [inputs, scale], nodes)
        return node_output("QuantizeLinear", [unscaled, one, middle], nodes), scale

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        if name not in self._constants:
            self._constants[name] = initializer(self._graph, f"slmquant.tokens.{name}", array)
        return self._constants[name]
