"""Run a decoder graph from ONNX Runtime GenAI's builder in ONNX Runtime: one sequence, with its cache updated in place.

Past and present of each layer are bound to the same buffer, as GenAI's own runtime does, so a decoding step copies no
cache. A prefill that needs only its last logits runs all tokens but the last without the head (ONNX Runtime skips nodes
that no requested output needs), then the last token alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmquant.boundary import guarded
from slmquant.errors import ModelError

GENAI_CONFIG = "genai_config.json"
_HEADLESS_TOKENS = 32
"""Prefill length from which skipping the head saves more than the extra step for the last token costs."""


class Decoder:
    """One model in memory, with one sequence.

    Args:
        folder: Folder with `genai_config.json` and the graph named there.
        threads: Number of threads.
        context: Maximum length of the sequence, in tokens.

    Raises:
        ModelError: The folder is not such a model, or is damaged.
    """

    def __init__(self, folder: Path, threads: int, context: int) -> None:
        import onnxruntime as ort

        head_size, graph = _facts(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised anyway, so do not print them
        with guarded(
            lambda why: f"{graph} cannot be opened by ONNX Runtime {ort.__version__} ({why}); export it again"
        ):
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
            raise ModelError(
                f"{graph} needs the input {min(unknown)!r}; expected a plain decoder with input_ids and a cache"
            )
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
            raise ValueError(f"{self._length} + {len(tokens)} tokens exceed the context of {self._context}")
        if every:
            return self._run(tokens)
        if len(tokens) >= _HEADLESS_TOKENS:
            self._run_headless(tokens[:-1])
            tokens = tokens[-1:]
        return self._run(tokens)[-1:]

    def close(self) -> None:
        """Free the memory."""
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
    """Size of an attention head, and path of the graph."""
    with guarded(lambda why: f"{folder} is not an ONNX Runtime GenAI model ({GENAI_CONFIG}: {why}); export it again"):
        decoder = json.loads((folder / GENAI_CONFIG).read_text(encoding="utf-8"))["model"]["decoder"]
        return int(decoder["head_size"]), folder / decoder["filename"]
