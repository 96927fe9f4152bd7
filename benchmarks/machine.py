"""Rates of this machine, and operations that a model needs; shared by the benchmarks."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Operations:
    """Multiplications and additions per token."""

    linears: float
    attention: float
    head: float


def operations_per_token(model: PreTrainedModel, window: int) -> Operations:
    """Mean operations per token of a window: linears of the blocks, causal attention, one row of logits."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    linears = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    attention = config.num_hidden_layers * width * (window + 1)  # two products over half of the window on average
    return Operations(2.0 * linears, 2.0 * attention, 2.0 * head.weight.numel())


def product_rate(size: int = 2048, seconds: float = 2.0) -> float:
    """Operations per second of a square bfloat16 product."""
    a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
    torch.mm(a, b)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(a, b)
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - started)
