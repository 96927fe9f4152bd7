"""Read a checkpoint of packed weights as a dense model.

It is the reference for engines that load such a folder, unless another is named: weights from the file, everything else
from the architecture.
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
from slmquant.formats.common.checkpoint_folder import CONFIG, WEIGHTS
from slmquant.formats.common.contract import PackedCheckpoint


def checkpoint_of(folder: Path) -> PackedCheckpoint | None:
    """The installed format whose layout the folder's config names; None if it names none, or an unknown one."""
    method = or_none(
        lambda: json.loads((folder / CONFIG).read_text(encoding="utf-8"))["quantization_config"]["quant_method"]
    )
    if method is None:
        return None
    installed = map(formats.load, formats.names())
    return next((fmt for fmt in installed if isinstance(fmt, PackedCheckpoint) and fmt.quant_method == method), None)


def read_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Read a folder that `checkpoint_of` recognizes as a dense model in evaluation mode.

    Raises:
        ModelError: The folder is damaged, or rounds activations, which a dense model cannot do.
    """
    checkpoint = checkpoint_of(folder)
    if checkpoint is None:
        raise ModelError(f"{folder} is no checkpoint of packed weights that slmquant can read")
    config = AutoConfig.from_pretrained(folder)
    groups = config.quantization_config.get("config_groups", {})
    if any(group.get("input_activations") for group in groups.values()):
        raise ModelError(
            f"{folder} rounds activations, which a dense model cannot do; name the model it was made from as reference"
        )
    del config.quantization_config
    weights = {f"{module}.weight": weight for module, weight in checkpoint.read(folder).items()}
    model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    with torch.no_grad(), safe_open(folder / WEIGHTS, "pt") as tensors:
        others = frozenset(tensors.keys())
        for name, parameter in model.named_parameters():  # tied parameters come once
            value = weights.get(name)
            if value is None and name in others:
                value = tensors.get_tensor(name)
            if value is None or value.shape != parameter.shape:
                what = "lacks" if value is None else f"holds {tuple(value.shape)}, not {tuple(parameter.shape)}, for"
                raise ModelError(f"{folder} {what} {name!r}; export again")
            parameter.copy_(value)
            parameter.data = parameter.data.to(dtype)
    model.eval()
    return model
