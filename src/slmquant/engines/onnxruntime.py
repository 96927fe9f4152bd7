"""ONNX Runtime on the CPU: graphs of slmquant's `onnx` format, and graphs from ONNX Runtime GenAI's own builder.

This is plain ONNX Runtime, because GenAI's interface does not return the logits of a whole text. Operators, kernels and
cache binding are the same as in GenAI.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slmquant.engines.common.contract import EngineStatus, OpenOptions, Session
from slmquant.errors import UnavailableError
from slmquant.formats.onnx.decoder import Decoder

_PACKAGE = "onnxruntime"


class OnnxRuntime:
    """ONNX Runtime as an engine; see `engines.common.contract.Engine`."""

    title = "ONNX Runtime"
    summary = "Microsoft's runtime for ONNX graphs, on the CPU"
    formats = ("onnx",)
    extra: str | None = "onnx"

    def status(self) -> EngineStatus:
        """Whether it is installed and loads; it does not report the instruction sets of its kernels."""
        try:
            installed = version(_PACKAGE)
        except PackageNotFoundError:
            return EngineStatus(False, reason=f"{_PACKAGE} is not installed; pip install 'slmquant[onnx]'")
        try:
            importlib.import_module(_PACKAGE)
        except (ImportError, OSError) as error:
            return EngineStatus(False, reason=f"{_PACKAGE} {installed} does not load ({error}); reinstall it")
        return EngineStatus(True, f"{_PACKAGE} {installed}")

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Load a folder with `genai_config.json` and the graph named there."""
        if not (status := self.status()).usable:
            raise UnavailableError(f"onnxruntime: {status.reason}")
        return Decoder(artifact, options.threads, options.context)


ENGINE = OnnxRuntime()
