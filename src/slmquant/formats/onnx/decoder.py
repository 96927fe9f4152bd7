"""A decoder graph of ONNX Runtime GenAI's making in ONNX Runtime: one sequence, whose cache stays where it is.

Every layer's past and present are the same buffer, as GenAI's own runtime binds them, so a decoding step copies no
cache. A prefill that needs only its last logits runs all tokens but the last without the head (ONNX Runtime computes
no node that nothing asked for needs), then the last one alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmquant.boundary import guarded
from slmquant.errors import ModelError

_CONFIG = "genai_config.json"
_HEADLESS_TOKENS = 32
"""Tokens from which the head costs a prefill more than a step of its own for the last token."""


class Decoder:
    """One model in memory, and its sequence.

    Args:
        folder: With `genai_config.json` and the graph that it names.
        threads: Threads that compute.
        context: Tokens that the sequence may hold.

    Raises:
        ModelError: The folder is no such model, or damaged.
    """

    def __init__(self, folder: Path, threads: int, context: int) -> None:
        import onnxruntime as ort

        head_size, graph = _facts(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, not printed as well
        with guarded(lambda why: f"{graph} cannot be opened by ONNX Runtime {ort.__version__} ({why})"):
            self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        inputs = {entry.name: entry for entry in self._session.get_inputs()}
        self._context = context
        self._length = 0
        self._wants_positions = "position_ids" in inputs
        self._cache = {}
        for name, entry in inputs.items():
            if name.startswith("past_key_values."):
                zeros = np.zeros((1, entry.shape[1], context, head_size), np.float32)
                self._cache[name] = ort.OrtValue.ortvalue_from_numpy(zeros)
        known = {"input_ids", "attention_mask", "position_ids", *self._cache}
        if unknown := inputs.keys() - known:
            raise ModelError(f"{graph} wants the input {min(unknown)!r}, which no plain decoder has")
        outputs = {entry.name: entry for entry in self._session.get_outputs()}
        self.vocab = int(outputs["logits"].shape[-1])
        self._headless = ort.RunOptions()
        self._headless.only_execute_path_to_fetches = True

    def reset(self) -> None:
        """Forget the sequence."""
        self._length = 0

    def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append `tokens`; see `engines.common.contract.Session`."""
        if self._length + len(tokens) > self._context:
            raise ValueError(f"{self._length} + {len(tokens)} tokens outgrow a context of {self._context}")
        if every:
            return self._run(tokens)
        if len(tokens) >= _HEADLESS_TOKENS:
            self._run_headless(tokens[:-1])
            tokens = tokens[-1:]
        return self._run(tokens)[-1:]

    def close(self) -> None:
        """Give memory back."""
        self._cache.clear()
        del self._session

    def _run(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        binding = self._bound(tokens)
        binding.bind_output("logits")
        self._session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = binding.get_outputs()[-1].numpy()[0]
        return logits

    def _run_headless(self, tokens: Sequence[int]) -> None:
        self._session.run_with_iobinding(self._bound(tokens), self._headless)

    def _bound(self, tokens: Sequence[int]):  # type: ignore[no-untyped-def]  # onnxruntime's classes have no types
        start, self._length = self._length, self._length + len(tokens)
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", np.asarray(tokens, np.int64)[None])
        binding.bind_cpu_input("attention_mask", np.ones((1, self._length), np.int64))
        if self._wants_positions:
            binding.bind_cpu_input("position_ids", np.arange(start, self._length, dtype=np.int64)[None])
        for name, buffer in self._cache.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
        return binding


def _facts(folder: Path) -> tuple[int, Path]:
    """Size of an attention head, and the graph."""
    with guarded(lambda why: f"{folder} is no ONNX Runtime GenAI model ({_CONFIG}: {why}); export it again"):
        decoder = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["model"]["decoder"]
        return int(decoder["head_size"]), folder / decoder["filename"]
