"""transformers with compressed-tensors: the folders that vLLM serves, opened without it.

The package keeps weights packed until the model first runs, and then unpacks all of them: what is computed with are the
numbers of the file, in float32, at the speed and in the memory of a model that is not quantized. Parity is what this
engine is for; a time measured with it says nothing of few bits. vLLM (`engines.vllm`) computes with packed weights.

Activations are rounded by the package's own rules; where they are not ours, `formats.compressed_tensors` says so.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

from slmquant.boundary import guarded
from slmquant.engines.common.contract import EngineStatus, OpenOptions
from slmquant.engines.common.torch_sessions import TorchSession
from slmquant.errors import ModelError, UnavailableError

_PACKAGE = "compressed-tensors"
_FP4 = ("nvfp4-pack-quantized", "mxfp4-pack-quantized")


class TransformersEngine:
    """The engine; see `_base.Engine`."""

    title = "transformers"
    summary = "transformers with compressed-tensors, which unpacks every weight when it loads: parity, not speed"
    formats = ("compressed_tensors",)
    extra: str | None = _PACKAGE

    def status(self) -> EngineStatus:
        """Whether compressed-tensors is installed, beside transformers, which always is."""
        import torch

        known = f"transformers {version('transformers')}"
        try:
            known += f", {_PACKAGE} {version(_PACKAGE)}"
        except PackageNotFoundError:
            return EngineStatus(False, known, reason=f"{_PACKAGE} is not installed; pip install 'slmquant[{_PACKAGE}]'")
        return EngineStatus(True, f"{known}, weights unpacked", (torch.backends.cpu.get_cpu_capability(),))

    def open(self, artifact: Path, options: OpenOptions) -> TorchSession:
        """Load a folder and unpack it.

        Raises:
            ModelError: The folder is damaged, lacks weights, or says what transformers does not know.
            UnavailableError: compressed-tensors is not installed.
        """
        if not (status := self.status()).usable:
            raise UnavailableError(f"{self.title}: {status.reason}")
        import torch
        from transformers import AutoModelForCausalLM, CompressedTensorsConfig, PreTrainedModel

        torch.set_num_threads(options.threads)
        at_once = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if _loads_dense(artifact) else {}
        with guarded(lambda why: f"{artifact} cannot be loaded: {why}; export again"):
            loaded = AutoModelForCausalLM.from_pretrained(
                artifact, dtype=torch.float32, local_files_only=True, output_loading_info=True, **at_once
            )
        model, report = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
        if missing := sorted(report["missing_keys"]):
            raise ModelError(f"{artifact} lacks {len(missing)} tensors, {missing[0]!r} among them; export again")
        session = TorchSession(model.eval(), options.context)
        session.feed([0])  # the first forward unpacks; loading is over when that is done
        session.reset()
        return session


def _loads_dense(artifact: Path) -> bool:
    """Whether weights must be unpacked tensor by tensor as they are read, rather than at the first forward.

    At the first forward FP4 becomes bfloat16 in a float32 model, which cannot multiply the two; and packed zero points
    are not accepted at all. As they are read, all weights become what the model is, but activations are left alone.
    """
    with guarded(lambda why: f"{artifact} has no readable config.json ({why}); export again"):
        config = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
        said = config.get("quantization_config", {})
        linears = said.get("config_groups", {}).get("group_0", {})
        zero_points = linears.get("weights", {}).get("symmetric") is False and said.get("format") == "pack-quantized"
        return said.get("format") in _FP4 or (zero_points and linears.get("input_activations") is None)


ENGINE = TransformersEngine()
