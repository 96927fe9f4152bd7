"""Versions of what computes numbers. They are part of a cell's identity, beside the hashes of what it reads.

Raise a version in the commit that changes the numbers it stands for, however little: rows of the older version are
then measured again, and shown apart from newer ones. A method that is not listed has version 1. What several methods
share (`core`, the driver, the capture of statistics) is a stage.
"""

from __future__ import annotations

from collections.abc import Mapping

STAGES: Mapping[str, int] = {
    "calibration": 2,  # which windows are drawn, and the statistics of their activations
    "quantization": 1,  # the driver, grids, packing, the quantizers that run with the model
}

METHODS: Mapping[str, int] = {
    "gptaq": 2,  # groups of a block are captured one after the other
    "gptq_mse": 2,  # tokens count relative to their energy
    "gptq_sink": 2,  # likewise
    "omniquant": 2,  # the authors' loss and epochs for each scheme; shorter and more steps in the fast budget
    "quarot": 2,  # scales are searched, activations clipped
    "smoothquant_plus": 2,  # the strength is judged by the whole model's divergence
    "spinquant": 2,  # another gradient, steps and choice of states; scales searched, activations clipped
}
"""Method → version, where it is not 1."""

METRICS: Mapping[str, int] = {
    "text": 2,  # perplexity and divergence
    "items": 2,  # lm-eval's tasks: prompts, scores, chance
    "generation": 1,
    "size": 2,
    "consumption": 2,
    "engine": 3,
}


def of_method(name: str) -> dict[str, int]:
    """Part of `a+b` → its version."""
    return {part: METHODS.get(part, 1) for part in name.lower().split("+")}
