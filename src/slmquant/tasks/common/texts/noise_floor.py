"""Noise floor of the divergence: the full-precision model against itself, rounded to bfloat16.

It shows how far a model that nobody calls damaged is from the reference, and so which divergences matter in practice.
It is not a limit of detection: differences far below it can be real, and a paired test shows them.

Rounded to bfloat16 are the residual stream after every block, and the final hidden state, once each. A model loaded in
bfloat16, the usual way to run one, does the same to every state it passes on. Rounding weights instead would often
change nothing, as most checkpoints are stored in bfloat16. Products in bfloat16 may already be part of an evaluation
(`computing.linear.multiply_in_`), whereas the residual stream is in float32 in either case, so that the floor means the
same for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.model.discovery.relations import decoder_blocks
from slmquant.model.running.output_head import OutputHead

__all__ = ["NOISE_FLOOR_WINDOWS", "floor_windows", "rounded_hidden"]

NOISE_FLOOR_WINDOWS = 4
"""Number of windows that the floor is measured on, spread over all measured windows."""


def floor_windows(windows: int) -> tuple[int, ...]:
    """Indices of the windows that the floor is measured on: the middles of equal parts of `windows`."""
    wanted = min(NOISE_FLOOR_WINDOWS, windows)
    return tuple((2 * part + 1) * windows // (2 * wanted) for part in range(wanted))


def rounded_hidden(model: PreTrainedModel, head: OutputHead, ids: Tensor) -> Tensor:
    """Final hidden states, `(batch, seq, hidden)` in float32, with the stream rounded to bfloat16 after every block.

    Raises:
        ModelError: The model has no list of decoder blocks.
    """
    with _rounding(list(decoder_blocks(model).values())):
        return _rounded(head.hidden(ids))


@contextmanager
def _rounding(blocks: list[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(_round_output).remove)
        yield


def _round_output(_block: nn.Module, _args: object, output: Any) -> Any:
    """A block returns its hidden states, or a tuple that begins with them."""
    return _rounded(output) if isinstance(output, Tensor) else (_rounded(output[0]), *output[1:])


def _rounded(states: Tensor) -> Tensor:
    return states.to(torch.bfloat16).to(states.dtype)
