"""transformers with compressed-tensors: opens the folders that vLLM serves, without vLLM.

The package keeps weights packed until the model first runs, and then unpacks all of them. It computes with the numbers
of the file, in float32, at the speed and in the memory of an unquantized model. So this engine is for parity; its times
say nothing about quantization. vLLM (`engines.vllm`) computes with packed weights.

Activations are rounded by the package's own rules; `formats.compressed_tensors` lists differences from slmquant's.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from slmquant.boundary import guarded
from slmquant.engines.common.contract import EngineStatus, OpenOptions
from slmquant.engines.common.torch_sessions import TorchSession
from slmquant.errors import ModelError, UnavailableError

_PACKAGE = "compressed-tensors"
_FP4 = ("nvfp4-pack-quantized", "mxfp4-pack-quantized")


class TransformersEngine:
    """transformers as an engine; see `engines.common.contract.Engine`."""

    title = "transformers"
    summary = "transformers with compressed-tensors, which unpacks every weight on loading: for parity, not speed"
    formats = ("compressed_tensors",)
    extra: str | None = _PACKAGE
    no_speed = "no speed: the engine unpacks every weight on loading and computes like an unquantized model"

    def status(self) -> EngineStatus:
        """Whether compressed-tensors is installed; transformers always is."""
        import torch

        versions = f"transformers {version('transformers')}"
        try:
            versions += f", {_PACKAGE} {version(_PACKAGE)}"
        except PackageNotFoundError:
            return EngineStatus(
                False, versions, reason=f"{_PACKAGE} is not installed; pip install 'slmquant[{_PACKAGE}]'"
            )
        return EngineStatus(True, f"{versions}, weights unpacked", (torch.backends.cpu.get_cpu_capability(),))

    def open(self, artifact: Path, options: OpenOptions) -> TorchSession:
        """Load a folder and unpack it.

        Raises:
            ModelError: The folder is damaged, lacks weights, or has settings that transformers does not support.
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
        session.feed([0])  # the first forward pass unpacks the weights, so it counts as loading
        session.reset()
        return session


def _loads_dense(artifact: Path) -> bool:
    """Whether weights must be unpacked while they are read, instead of in the first forward pass.

    In the first forward pass, FP4 becomes bfloat16 in a float32 model, which cannot multiply the two; and packed zero
    points are not accepted at all. While they are read, all weights get the model's dtype, but activations are not
    rounded, and all linears must have one type.

    Raises:
        ModelError: Only some of several types must be unpacked while they are read.
    """
    with guarded(lambda why: f"{artifact} has no readable config.json ({why}); export again"):
        config = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
        settings = config.get("quantization_config", {})
        groups = settings.get("config_groups", {}).values()
        dense = [_unpacks_while_read(group, group.get("format", settings.get("format"))) for group in groups]
    if any(dense) and len(dense) > 1:
        raise ModelError(
            f"{artifact} mixes types, and transformers unpacks zero points and FP4 only where all linears have one "
            "type; give the mixture symmetric integers or FP8, or use another engine"
        )
    return any(dense)


def _unpacks_while_read(group: dict[str, Any], kind: str | None) -> bool:
    zero_points = group.get("weights", {}).get("symmetric") is False and kind == "pack-quantized"
    return kind in _FP4 or (zero_points and group.get("input_activations") is None)


ENGINE = TransformersEngine()
