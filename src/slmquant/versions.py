"""Versions of the code that computes numbers; with the hashes of its inputs they are part of a cell's identity.

Raise a version in the commit that changes its numbers, however little: records of the older version are then measured
again, and shown separately from newer ones. A method that is not listed has version 1. Code shared by several methods
(`core`, the driver, the capture of statistics) is a stage.
"""

from __future__ import annotations

from collections.abc import Mapping

STAGES: Mapping[str, int] = {
    "calibration": 2,  # choice of windows and statistics of activations
    "quantization": 1,  # driver, grids, packing, run-time quantizers
    "choosing": 1,  # sensitivity, allocation and swaps of types that are chosen for a number of bytes
}

METHODS: Mapping[str, int] = {
    "gptaq": 2,  # the linears of a block are captured group by group
    "gptq_mse": 2,  # tokens weighted relative to their energy
    "gptq_sink": 2,  # same change as gptq_mse
    "omniquant": 3,  # larger steps in the fast budget, as measured
    "quarot": 2,  # searched scales, clipped activations
    "scale_tuning": 3,  # the gate is measured in the compute dtype; gradients of scales are sums over groups
    "slmq": 3,  # same change as scale_tuning
    "smoothquant_plus": 2,  # strength chosen by the divergence of the whole model
    "spinquant": 2,  # other gradient, steps and choice of states; searched scales, clipped activations
}
"""Method → version, for versions other than 1."""

METRICS: Mapping[str, int] = {
    "text": 2,  # perplexity and divergence
    "items": 2,  # lm-eval's tasks: prompts, scores, chance
    "generation": 1,
    "size": 2,
    "consumption": 2,
    "engine": 4,  # parity knows the noise of rounded activations, and ONNX multiplies them as integers
}


def of_method(name: str) -> dict[str, int]:
    """Versions of the parts of a method name such as `a+b`."""
    return {part: METHODS.get(part, 1) for part in name.lower().split("+")}
