"""OpenVINO on the CPU: graphs of slmquant's `openvino` format, and stateful graphs from optimum-intel or NNCF.

OpenVINO's defaults differ from what was evaluated. The engine sets:

* `INFERENCE_PRECISION_HINT` f32. On CPUs that multiply bfloat16, OpenVINO by default computes everything in it,
  including norms, residual stream and logits; slmquant's own evaluation keeps those in float32.
* Rounding of activations and cache is left to the file: slmquant's files turn both off; a file without these options
  runs with OpenVINO's defaults, as it is deployed.
* `PERFORMANCE_HINT` LATENCY and one stream, for one sequence at a time.

A graph computes the logits of all its tokens. Before compiling, the input of the head is cut to the requested number of
last tokens, as GenAI does.
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
"""Operations allowed between the head and the logits: scales, soft caps, biases."""


class OpenVino:
    """OpenVINO as an engine; see `engines.common.contract.Engine`."""

    title = "OpenVINO"
    summary = "Intel's runtime for OpenVINO IR, on the CPU"
    formats = ("openvino",)
    extra: str | None = "openvino"

    def status(self) -> EngineStatus:
        """Whether it is installed, and the number formats that it reports for this CPU."""
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
    """One compiled graph with one sequence in its states; see `engines.common.contract.Session`.

    Args:
        compiled: A graph with the input `kept_tokens`, added by `_keep_last_`.
        context: Maximum length of the sequence, in tokens.
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
        """Append `tokens` and compute; see `Session.feed`."""
        start, stop = self._held, self._held + len(tokens)
        if not tokens:
            raise ValueError("no tokens to feed; expected at least one")
        if stop > self._context:
            raise ValueError(f"{stop} tokens do not fit a context of {self._context}")
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
        """Free the memory."""
        self._request = None

    @property
    def _live(self) -> ov.InferRequest:
        if self._request is None:
            raise ValueError("the session is closed")
        return self._request


def _keep_last_(graph: ov.Model, artifact: Path) -> None:
    """Cut the head's input to its last tokens; the new input `kept_tokens` is their number, negated.

    Raises:
        ModelError: The graph has no states, or its logits are not the result of a matrix product.
    """
    from openvino import opset15 as ops

    if not graph.get_sinks() or "logits" not in {name for port in graph.outputs for name in port.get_names()}:
        raise ModelError(f"{artifact} is not a stateful language model (with a KV cache); export it again, stateful")
    node = graph.output("logits").get_node()
    while node.get_type_name() in _BESIDES_THE_HEAD:
        operands = [operand.get_source_output().get_node() for operand in node.inputs()]
        node = next((node for node in operands if node.get_output_partial_shape(0).is_dynamic), operands[0])
    if node.get_type_name() != "MatMul":
        raise ModelError(f"{artifact}: its logits come from a {node.get_type_name()} node, expected MatMul (the head)")
    kept = ops.parameter([1], dtype=np.int64, name=_KEPT)
    kept.output(0).set_names({_KEPT})
    one, end = ops.constant(np.array([1])), ops.constant(np.array([np.iinfo(np.int64).max]))
    last = ops.slice(node.input_value(0), kept, end, one, one)
    node.input(0).replace_source_output(last.output(0))
    graph.add_parameters([kept])
    graph.validate_nodes_and_infer_types()


ENGINE = OpenVino()
