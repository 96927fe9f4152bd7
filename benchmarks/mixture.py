"""Gain of more bits for each kind of linear: the divergence removed if it alone is restored to full precision.

Weights are rounded by GPTQ-MSE to Q4_0, embedding and head to Q8_0; that method rounds each weight independently, so
the others do not change. It is calibrated on WikiText-2's train split and evaluated on windows of 512 tokens, spread
over another text; ± is half the width of a 95 % interval over windows.

    python benchmarks/mixture.py smollm2-135m-instruct
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from printed import write_printed
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from slmquant import api
from slmquant.analysis.serial import series_mean
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import spread_windows, text_tokens
from slmquant.core.affine import QuantizedTensor
from slmquant.core.divergence import log_normalize_, token_divergence_
from slmquant.machine.environment import environment
from slmquant.model.sources.load import load
from slmquant.store.record import CalibrationSpec

WINDOW = 512
HEADS = ("restored", "million weights", "KL, nats", "gain per million weights, millinats")


def main() -> None:
    """Round once, then restore one kind after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument(
        "--corpus", default="wikitext2_validation", help="corpus to evaluate on; c4_train_b for web pages"
    )
    parser.add_argument("--output", type=Path, help="also write the table here as JSON, for the documents' tables")
    given = parser.parse_args()
    calibration = CalibrationSpec(corpus="wikitext2_train")
    if given.corpus == calibration.corpus:
        parser.error(f"{given.corpus} is the calibration corpus; evaluate on another one")
    made = api.quantize(given.model, "gptq_mse", "Q4_0E8", calibration=calibration)
    full, trial = load(given.model).model, load(given.model).model
    tokens = text_tokens(made.tokenizer, load_corpus(given.corpus).text)
    available = len(tokens) // WINDOW
    positions = spread_windows(given.corpus, available, given.windows)
    windows = tokens[: available * WINDOW].view(available, WINDOW)[list(positions)]
    weights = made.quantized.weights
    put(trial, weights)
    rounded = divergence(full, trial, windows)
    rows = [("nothing", "", f"{sum(rounded) / len(rounded):.4f}", "")]
    for kind in dict.fromkeys(name.rpartition(".")[2] for name in weights):
        chosen = {name: weight for name, weight in weights.items() if name.endswith(kind)}
        millions = sum(weight.codes.numel() for weight in chosen.values()) / 1e6
        for name in chosen:
            trial.get_submodule(name).get_parameter("weight").data.copy_(
                full.get_submodule(name).get_parameter("weight")
            )
        left = divergence(full, trial, windows)
        put(trial, chosen)
        gains = [1000 * (before - after) / millions for before, after in zip(rounded, left, strict=True)]
        found = series_mean(gains, None, positions)
        interval = found.interval()
        reach = "" if interval is None else f" ± {interval.high - found.mean:.2f}"
        rows.append((kind, f"{millions:.1f}", f"{sum(left) / len(left):.4f}", f"{found.mean:.2f}{reach}"))
    table = Table(*HEADS)
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 120).print(table)
    if given.output is not None:
        here = environment()
        conditions = (
            f"{given.model}, GPTQ-MSE in Q4_0, embedding and head in Q8_0, calibrated on {calibration.corpus}; "
            f"{given.windows} windows of {WINDOW} tokens of {given.corpus}, evenly spread, on {here.cpu}. "
            "±: half of a 95 % interval."
        )
        write_printed(given.output, HEADS, rows, conditions)


def put(model: PreTrainedModel, weights: Mapping[str, QuantizedTensor]) -> None:
    """Write dequantized weights into a plain model."""
    for name, weight in weights.items():
        model.get_submodule(name).get_parameter("weight").data.copy_(weight.dequantize())


@torch.inference_mode()
def divergence(full: PreTrainedModel, other: PreTrainedModel, windows: torch.Tensor) -> list[float]:
    """Mean KL divergence over the tokens of each window, in nats."""
    means = []
    for window in windows:
        log_p, log_q = (log_normalize_(model(window[None]).logits[0]) for model in (full, other))
        means.append(float(token_divergence_(log_p, log_q).forward.mean()))
    return means


if __name__ == "__main__":
    main()
