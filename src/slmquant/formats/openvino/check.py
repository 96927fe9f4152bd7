"""Check a traced graph against the model that it was traced from.

Tracing records the operations of one example. Decisions that an architecture makes at run time (experts, windows,
positions) may be recorded as constants, and the graph would silently compute something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.errors import RefusedError
from slmquant.formats.openvino.runtime import import_openvino
from slmquant.formats.openvino.trace import plain_linears
from slmquant.model.compatibility.context import fitting
from slmquant.model.compatibility.quiet import quiet_transformers

if TYPE_CHECKING:
    import openvino as ov

_TOKENS = 48
_LARGEST_WINDOW = 1024
"""A sliding window up to this size is tested with more tokens than it holds."""
_TOLERANCE = 0.01
_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "NUM_STREAMS": 1,
}


@torch.no_grad()
def check(graph: ov.Model, model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Compare logits on random tokens, fed in three pieces of lengths that tracing did not see.

    Args:
        graph: The result of `trace`, its constants still in float32.
        model: The traced model.
        weights: Module name → float32 weight `(out, in)` that was traced.

    Raises:
        RefusedError: The logits differ.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    count = fitting(_TOKENS + (window if window <= _LARGEST_WINDOW else 0), model.config)
    tokens = torch.randint(0, config.vocab_size, (1, count), generator=torch.Generator().manual_seed(0))
    with quiet_transformers(), plain_linears(model, weights):
        expected = model(input_ids=tokens, use_cache=False).logits[0].float()
    actual = torch.from_numpy(_logits(graph, tokens.numpy()))
    off = float((actual - expected).abs().max() / expected.std())
    if not off <= _TOLERANCE:
        raise RefusedError(
            f"openvino: the graph traced from this {model.config.model_type} computes other logits than the model: "
            f"off by {off:.2g} standard deviations, {_TOLERANCE} allowed"
        )


def _logits(graph: ov.Model, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits of all tokens, `(tokens, vocab)`, fed as all but six at once, then five, then one."""
    compiled = import_openvino().Core().compile_model(graph, "CPU", _SETTINGS)
    request = compiled.create_infer_request()
    names = {name for port in compiled.inputs for name in port.get_names()}
    count = tokens.shape[1]
    pieces, start = [], 0
    for stop in (count - 6, count - 1, count):
        inputs = {
            "input_ids": tokens[:, start:stop],
            "attention_mask": np.ones((1, stop), dtype=np.int64),
            "position_ids": np.arange(start, stop, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        request.infer({name: value for name, value in inputs.items() if name in names})
        pieces.append(request.get_tensor("logits").data[0].astype(np.float32))
        start = stop
    return np.concatenate(pieces)
