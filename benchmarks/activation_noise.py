"""How far a model with rounded activations is from itself when its embeddings are a little off.

    python benchmarks/activation_noise.py smollm2-135m-instruct --output results/published/activation_noise.json

Each number of the embedding is multiplied by 1 + ε·N(0, 1), in float32. Shown is the mean KL of the model to itself so
nudged, beside its KL from full precision, with standard errors over windows. A model that rounds weights alone is a
smooth function of its embeddings; one that rounds activations is not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from jaxtyping import Float, Int
from printed import write_printed
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from slmquant import api
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import spread_windows, text_tokens
from slmquant.core.divergence import log_normalize_, token_divergence_
from slmquant.machine.environment import environment

CORPUS, LENGTH = "wikitext2_train", 256
SCHEMES = ("W8A16", "W8A8", "W4A8", "W4A4")
NUDGES = (1e-6, 2.0**-12)
HEADS = ("scheme", "from full precision", "from itself, ε = 10⁻⁶", "from itself, ε = 2⁻¹²")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--method", default="rtn")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--output", type=Path, help="JSON file of the table, for the documents")
    given = parser.parse_args()
    full = api.quantize(given.model, method="none", scheme="W16A16", dtype="float32")
    ids = text_tokens(full.tokenizer, load_corpus(CORPUS).text)
    starts = spread_windows(CORPUS, len(ids) // LENGTH, given.windows)
    windows = torch.stack([ids[LENGTH * start : LENGTH * (start + 1)] for start in starts])
    exact = log_probabilities(full.quantized.model, windows)
    rows = []
    for scheme in given.schemes.split(","):
        model = api.quantize(given.model, method=given.method, scheme=scheme, dtype="float32").quantized.model
        rounded = log_probabilities(model, windows)
        nudged = [divergence(rounded, log_probabilities_nudged(model, windows, size)) for size in NUDGES]
        rows.append([scheme, divergence(exact, rounded), *nudged])
    machine = environment()
    conditions = (
        f"{given.model}, {given.method}: KL in nats over {given.windows} windows of {LENGTH} tokens of {CORPUS}, in "
        f"float32; ± one standard error over windows. {machine.cpu}, {machine.threads} threads."
    )
    table = Table(*HEADS, box=None)
    for row in rows:
        table.add_row(*row)
    Console(width=120, highlight=False).print(table, conditions)
    if given.output is not None:
        write_printed(given.output, HEADS, rows, conditions)


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel, windows: Int[Tensor, "windows seq"]
) -> Float[Tensor, "windows seq vocab"]:
    """Log-probabilities of every next token."""
    return torch.stack([log_normalize_(model(window[None]).logits[0].float()) for window in windows])


def log_probabilities_nudged(
    model: PreTrainedModel, windows: Int[Tensor, "windows seq"], size: float
) -> Float[Tensor, "windows seq vocab"]:
    """The same with embeddings that are off by `size`, relative to each number."""
    weight = model.get_input_embeddings().get_parameter("weight")
    kept = weight.detach().clone()
    weight.data.mul_(1 + size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    nudged = log_probabilities(model, windows)
    weight.data.copy_(kept)
    return nudged


def divergence(first: Float[Tensor, "windows seq vocab"], second: Float[Tensor, "windows seq vocab"]) -> str:
    """Mean KL(first‖second) with its standard error over windows."""
    pairs = zip(first, second, strict=True)
    means = torch.stack([token_divergence_(p.clone(), q.clone()).forward.mean() for p, q in pairs])
    return f"{float(means.mean()):.5f} ± {float(means.std() / len(means) ** 0.5):.5f}"


if __name__ == "__main__":
    main()
