"""How well the divergence of a mixture is predicted: random mixtures of about one file size, predicted and measured.

    python benchmarks/slmq_predictions.py stories15m --max-bytes 14.7MB

Each mixture is the best for losses multiplied by random factors, so all are near the size and spread in divergence.
They are measured on text that no type was chosen on. Every weight is rounded once to every type, and all codes are
kept: a model of 135M takes 3 GB.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
from printed import write_printed
from rich.console import Console
from rich.table import Table
from scipy.stats import pearsonr, spearmanr
from transformers import PreTrainedModel

from slmquant.cache.upkeep import read_size
from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.corpora import load_corpus
from slmquant.calib.texts import draw_texts
from slmquant.calib.windows import calibration_windows
from slmquant.core.affine import QuantizedTensor
from slmquant.machine.environment import environment
from slmquant.mixing.candidates import correct_, round_embeddings
from slmquant.mixing.choose import Room, room_for, solve
from slmquant.mixing.curvature import curvatures
from slmquant.mixing.linears import round_linears
from slmquant.mixing.sensitivity import CURVATURE_WINDOWS, fitting_types, rounding_of
from slmquant.model.computing.modes import MODES, ComputeMode
from slmquant.model.discovery.relations import discover
from slmquant.model.running.trial import Trial
from slmquant.model.sources.load import load
from slmquant.model.structure import Relations
from slmquant.progress import Silent

METHOD, CORPUS, SAMPLES, LENGTH, FURTHER = "slmq", "wikitext2_train", 64, 512, 16
SPREAD = 1.5
"""Standard deviation of the logarithm of the random factors."""


@torch.no_grad()
def main() -> None:
    """Print every mixture and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="stories15m")
    parser.add_argument("--max-bytes", default="14.7MB")
    parser.add_argument("--mixtures", type=int, default=20)
    parser.add_argument("--output", type=Path, help="also write the results here as JSON, for the documents' tables")
    given = parser.parse_args()
    loaded = load(given.model)
    windows = calibration_windows(loaded.tokenizer, load_corpus(CORPUS), SAMPLES + FURTHER, LENGTH, 0)
    more = windows[SAMPLES:]
    mode = MODES["bfloat16_all"]
    calibration = FreshCalibration(loaded.model, windows[:SAMPLES], mode.linears, Silent(), more)
    relations = discover(loaded.model)
    losses, codes = candidates(loaded.model, relations, calibration, mode)
    gate = Trial(loaded.model, draw_texts(calibration).gate, mode)
    types = fitting_types(loaded.model, relations, METHOD, "paper")
    room = room_for(given.model, loaded, METHOD, types, read_size(given.max_bytes, "--max-bytes"))
    heads = ["mixture", "MB", "predicted", "measured"]
    rows, pairs = list[list[str]](), list[tuple[float, float]]()
    for number in range(given.mixtures + 1):
        chosen = mixture(losses, room, number)
        predicted = sum(losses[name][kind] for name, kind in chosen.items())
        found = float(gate.divergence({name: codes[name][kind] for name, kind in chosen.items()}).mean())
        size = room.others + sum(room.sizes[name][kind] for name, kind in chosen.items())
        name = "best" if number == 0 else str(number)
        rows.append([name, f"{size / 1e6:.2f}", f"{predicted:.4f}", f"{found:.4f}"])
        pairs.append((predicted, found))
    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(*row)
    guesses, measured = np.array(pairs[1:]).T
    line = (
        f"{len(pairs) - 1} random mixtures: correlation {pearsonr(guesses, measured).statistic:.3f}, of ranks "
        f"{spearmanr(guesses, measured).statistic:.3f}; measured over predicted {np.median(measured / guesses):.2f}"
    )
    Console(highlight=False).print(table, line, sep="\n")
    if given.output is not None:
        tokens = gate.windows.numel()
        conditions = f"{given.model}, at most {given.max_bytes}; {tokens} tokens of {CORPUS} that chose no type"
        write_printed(given.output, heads, rows, f"{conditions}; {environment().cpu}.", [line])


def candidates(
    model: PreTrainedModel, relations: Relations, calibration: FreshCalibration, mode: ComputeMode
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, QuantizedTensor]]]:
    """Losses and codes of every weight in every type."""
    rounding, types = rounding_of(METHOD), fitting_types(model, relations, METHOD, "paper")
    statistics = calibration.statistics(relations, rounding.needs)
    texts = draw_texts(calibration)
    costs = curvatures(model, relations, texts.choice[:CURVATURE_WINDOWS], Silent(), mode)
    trial = Trial(model, texts.choice, mode)
    linears = round_linears(model, relations, rounding, types, statistics, costs, trial, Silent(), keep=True)
    embeddings = round_embeddings(model, relations, rounding, types, statistics, trial, Silent(), keep=True)
    correct_(linears, relations, trial, Silent())
    return linears.losses | embeddings.losses, linears.kept | embeddings.kept


def mixture(losses: dict[str, dict[str, float]], room: Room, number: int) -> dict[str, str]:
    """The best mixture for number 0, else the best for losses multiplied by random factors."""
    draw = random.Random(number)
    factors = {name: math.exp(SPREAD * draw.gauss(0, 1)) if number else 1.0 for name in losses}
    changed = {name: {kind: loss * factors[name] for kind, loss in several.items()} for name, several in losses.items()}
    return {name: one.type for name, one in solve(changed, room).chosen.items()}


if __name__ == "__main__":
    main()
