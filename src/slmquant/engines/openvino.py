"""OpenVINO on the CPU: graphs of slmquant's `openvino` format, and those of optimum-intel or NNCF with a cache inside.

OpenVINO's defaults are not what was evaluated. What the engine sets, and why:

* `INFERENCE_PRECISION_HINT` f32. Where a CPU multiplies bfloat16, OpenVINO by default computes everything in it,
  norms, residual stream and logits too; slmquant's own evaluation keeps those in float32.
* Rounding of activations and of the cache is left to the file: slmquant's says no to both, a file that says nothing
  is run as OpenVINO would, which is how it is deployed.
* `PERFORMANCE_HINT` LATENCY and one stream: one sequence at a time.

A graph gives the logits of all its tokens. Before it is compiled, as GenAI does, the input of its head is cut to as
many last tokens as are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slmquant.boundary import guarded, last_line
from slmquant.engines.common.contract import EngineStatus, OpenOptions, Session
from slmquant.errors import ModelError, UnavailableError
from slmquant.formats.openvino.runtime import NOT_INSTALLED, import_openvino, open_graph

if TYPE_CHECKING:
    import openvino as ov

_PACKAGE = "openvino"
_KEPT = "kept_tokens"
_BESIDES_THE_HEAD = ("Result", "Multiply", "Divide", "Tanh", "Add", "Convert", "Subtract")
"""What may lie between the head and the logits: scales, soft caps, biases."""


class OpenVino:
    """The engine; see `_base.Engine`."""

    title = "OpenVINO"
    summary = "Intel's runtime for OpenVINO IR, on the CPU"
    formats = ("openvino",)
    extra: str | None = "openvino"

    def status(self) -> EngineStatus:
        """Whether it is installed, and which number formats it says that it computes with here."""
        try:
            installed = version(_PACKAGE)
        except PackageNotFoundError:
            return EngineStatus(False, reason=NOT_INSTALLED)
        try:
            capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        except (ImportError, OSError, RuntimeError, UnavailableError) as error:
            return EngineStatus(False, reason=f"{_PACKAGE} {installed} does not load ({error}); reinstall it")
        numbers = tuple(name for name in capabilities if name in ("FP32", "FP16", "BF16", "INT8"))
        return EngineStatus(True, f"{_PACKAGE} {installed}", numbers)

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Load a folder with `openvino_model.xml`."""
        graph = open_graph(artifact)
        _keep_last_(graph, artifact)
        settings = {
            "INFERENCE_NUM_THREADS": options.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        with guarded(lambda why: f"openvino cannot run {artifact}: {why}", say=last_line):
            compiled = import_openvino().Core().compile_model(graph, "CPU", settings)
        return OpenVinoSession(compiled, options.context)


class OpenVinoSession:
    """One compiled graph with one sequence in its states; see `_base.Session`.

    Args:
        compiled: A graph with the input `kept_tokens` that `_keep_last_` adds.
        context: Tokens that the sequence may hold.
    """

    def __init__(self, compiled: ov.CompiledModel, context: int) -> None:
        self._request: ov.InferRequest | None = compiled.create_infer_request()
        self._names = {name for port in compiled.inputs for name in port.get_names()}
        self._vocab = compiled.output("logits").get_partial_shape()[2].get_length()
        self._context, self._held = context, 0

    @property
    def vocab(self) -> int:
        """Width of a row of logits."""
        return int(self._vocab)

    def reset(self) -> None:
        """Forget the sequence."""
        self._live.reset_state()
        self._held = 0

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append `tokens` and compute; see `_base.Session.feed`."""
        start, stop = self._held, self._held + len(tokens)
        if not tokens:
            raise ValueError("no tokens to feed; expected at least one")
        if stop > self._context:
            raise ValueError(f"{stop} tokens do not fit into a context of {self._context}")
        inputs = {
            "input_ids": np.asarray(tokens, dtype=np.int64)[None],
            "attention_mask": np.ones((1, stop), dtype=np.int64),
            "position_ids": np.arange(start, stop, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
            _KEPT: np.array([-len(tokens) if every else -1], dtype=np.int64),
        }
        self._live.infer({name: value for name, value in inputs.items() if name in self._names})
        self._held = stop
        logits: NDArray[np.float32] = self._live.get_tensor("logits").data[0].astype(np.float32)
        return logits

    def close(self) -> None:
        """Give memory back."""
        self._request = None

    @property
    def _live(self) -> ov.InferRequest:
        if self._request is None:
            raise ValueError("the session is closed")
        return self._request


def _keep_last_(graph: ov.Model, artifact: Path) -> None:
    """Cut what the head multiplies to its last tokens, as many as the new input `kept_tokens` says, negated.

    Raises:
        ModelError: The graph has no states, or its logits do not come from a product.
    """
    from openvino import opset15 as ops

    if not graph.get_sinks() or "logits" not in {name for port in graph.outputs for name in port.get_names()}:
        raise ModelError(f"{artifact} is no language model with a cache inside; export it again, or stateful")
    node = graph.output("logits").get_node()
    while node.get_type_name() in _BESIDES_THE_HEAD:
        operands = [operand.get_source_output().get_node() for operand in node.inputs()]
        node = next((one for one in operands if one.get_output_partial_shape(0).is_dynamic), operands[0])
    if node.get_type_name() != "MatMul":
        raise ModelError(f"{artifact}: its logits come from a {node.get_type_name()}, expected the product of a head")
    kept = ops.parameter([1], dtype=np.int64, name=_KEPT)
    kept.output(0).set_names({_KEPT})
    one, end = ops.constant(np.array([1])), ops.constant(np.array([np.iinfo(np.int64).max]))
    last = ops.slice(node.input_value(0), kept, end, one, one)
    node.input(0).replace_source_output(last.output(0))
    graph.add_parameters([kept])
    graph.validate_nodes_and_infer_types()


ENGINE = OpenVino()
