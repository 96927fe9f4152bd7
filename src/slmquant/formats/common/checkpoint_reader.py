"""A checkpoint of packed weights as the dense model that it stands for, by our own reading of it.

What engines that load such a folder are held against where nothing else is named: weights as the file says them, all
else as the architecture says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from slmquant import formats
from slmquant.boundary import or_none
from slmquant.errors import ModelError
from slmquant.formats.common.checkpoint_folder import CONFIG, WEIGHTS, Checkpoint

_LAYOUTS = ("compressed_tensors", "gptq", "awq")


def checkpoint_of(folder: Path) -> Checkpoint | None:
    """The layout that `folder` says its weights are packed in; None where it names none, or one that is not ours."""
    method = or_none(
        lambda: json.loads((folder / CONFIG).read_text(encoding="utf-8"))["quantization_config"]["quant_method"]
    )
    ours = (cast(Checkpoint, formats.load(name)) for name in _LAYOUTS)
    return next((layout for layout in ours if layout.layout.method == method), None)


def read_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a folder that `checkpoint_of` knows, in evaluation mode, with nothing packed.

    Raises:
        ModelError: The folder is damaged, or rounds activations, which no dense model does.
    """
    layout = checkpoint_of(folder)
    if layout is None:
        raise ModelError(f"{folder} is no checkpoint of packed weights that slmquant reads")
    config = AutoConfig.from_pretrained(folder)
    groups = config.quantization_config.get("config_groups", {})
    if any(group.get("input_activations") for group in groups.values()):
        raise ModelError(f"{folder} rounds activations, which its weights alone do not say")
    del config.quantization_config
    weights = {f"{module}.weight": weight for module, weight in layout.read(folder).items()}
    model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    with torch.no_grad(), safe_open(folder / WEIGHTS, "pt") as tensors:
        others = frozenset(tensors.keys())
        for name, parameter in model.named_parameters():  # a tied one comes once
            found = weights.get(name)
            if found is None and name in others:
                found = tensors.get_tensor(name)
            if found is None or found.shape != parameter.shape:
                what = "lacks" if found is None else f"holds {tuple(found.shape)}, not {tuple(parameter.shape)}, for"
                raise ModelError(f"{folder} {what} {name!r}; export again")
            parameter.copy_(found)
            parameter.data = parameter.data.to(dtype)
    model.eval()
    return model
