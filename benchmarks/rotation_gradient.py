"""Checks whether SpinQuant's gradient lowers the expected loss: cosines with the gradient of the dithered loss.

    python benchmarks/rotation_gradient.py smollm2-135m-instruct --windows 2

Rounding errors are the scale of a token times a sawtooth of mean 0, so the expected loss is the loss after dithered
tokens, which can be differentiated. Its gradient is the mean over draws of the dither; one draw is mostly noise. The
command prints the cosine of that mean, on the Cayley curves of the rotation of the residual stream, with the gradient
through the scales of tokens (`spinquant`) and with the one for constant scales (`spinquant_frozen`), on the same
windows and on others; and the change of the other windows' dithered loss, over as many draws, along each of them, for
short steps.

The lines above show how accurate the mean is: the cosine of the mean over half of the draws with that over the other
half. If it is r, the true gradient has a cosine of about the root of 2r / (1 + r) with the mean of all draws.
Means and standard errors are over starts.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.core.rotation import cayley
from slmquant.methods.common.rotation_trial import RESIDUAL, Gradient, Trial
from slmquant.methods.common.work import Work
from slmquant.methods.quarot import random_rotations, unturned_stream
from slmquant.model.discovery.relations import discover
from slmquant.model.rewriting.rotate import fold_norms_
from slmquant.model.sources.load import load
from slmquant.progress import Silent
from slmquant.schemes import parse

WAYS: tuple[Gradient, ...] = ("scale", "frozen")


def downhill(X: Tensor, gradient: Tensor) -> Tensor:
    """The skew-symmetric generator, of length 1, of the Cayley curve of steepest descent."""
    product = -gradient.double() @ X.mT
    skew: Tensor = product - product.mT
    return skew.div(skew.norm())


def dithered(trial: Trial, windows: Tensor, draws: int) -> tuple[Tensor, float]:
    """The mean gradient of the dithered loss over some draws, and the cosine of its halves, in generators."""
    halves = []
    for first in (0, 1):
        total = None
        for seed in range(first, draws, 2):
            trial.noise.manual_seed(seed)
            gradient = trial.gradients(windows)[RESIDUAL].double()
            total = gradient if total is None else total + gradient
        assert total is not None
        halves.append(total)
    X = trial.states[RESIDUAL].X
    agreement = float((downhill(X, halves[0]) * downhill(X, halves[1])).sum())
    return halves[0] + halves[1], agreement


def dithered_loss(trial: Trial, windows: Tensor, draws: int) -> float:
    """The mean loss behind dithered tokens, over the same draws whatever the rotation."""
    trial.gradient = "dithered"
    losses = []
    for seed in range(draws):
        trial.noise.manual_seed(seed)
        losses += [float(trial.losses(part).mean()) for part in windows.split(1)]
    return statistics.fmean(losses)


def shown(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):+.4f} ± {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--scheme", default="W4A4")
    parser.add_argument("--corpus", default="wikitext2_train")
    parser.add_argument("--windows", type=int, default=2, help="windows in each of the two sets")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--starts", type=int, default=2, help="random rotations to start from")
    parser.add_argument("--draws", type=int, default=16, help="of the dither; even")
    parser.add_argument("--moves", default="0.02,0.05,0.1", help="lengths of steps (Frobenius), at most 0.1")
    given = parser.parse_args()
    if given.draws < 2 or given.draws % 2:
        parser.error(f"--draws {given.draws}: give an even number, for two halves")
    loaded = load(given.model)
    count, moves = given.windows, [float(move) for move in given.moves.split(",")]
    ids = calibration_windows(loaded.tokenizer, load_corpus(given.corpus), 2 * count, given.seq_len, 0)
    relations = discover(loaded.model)
    calibration = FreshCalibration(loaded.model, ids, torch.float32, Silent())
    work = Work(loaded.model, relations, parse(given.scheme), calibration)
    stream = unturned_stream(work)
    for block in stream.blocks:
        fold_norms_(work.model, block)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    agreements: list[float] = []
    for seed in range(given.starts):
        ways: dict[tuple[str, int], Tensor] = {}
        trial = Trial(work, stream, random_rotations(stream, seed))
        X = trial.states[RESIDUAL].X
        with torch.no_grad(), trial.installed():
            for half in (0, 1):
                part = ids[half * count :][:count]
                trial.gradient = "dithered"
                mean, agreement = dithered(trial, part, given.draws)
                ways["dithered", half] = downhill(X, mean)
                agreements.append(agreement)
                for gradient in WAYS:
                    trial.gradient = gradient
                    ways[gradient, half] = downhill(X, trial.gradients(part)[RESIDUAL])
            for gradient in WAYS:
                for half in (0, 1):
                    for where, other in (("cosine, same windows", half), ("cosine, other windows", 1 - half)):
                        cosine = float((ways[gradient, half] * ways["dithered", other]).sum())
                        found[gradient, where].append(cosine)
            start = dithered_loss(trial, ids[count:], given.draws)
            for gradient in WAYS:
                for move in moves:
                    moved = cayley(move * ways[gradient, 0], X)
                    trial.states[RESIDUAL] = trial.states[RESIDUAL]._replace(X=moved)
                    trial._read_matrices()
                    change = dithered_loss(trial, ids[count:], given.draws) - start
                    found[gradient, f"loss of others, moved by {move:g}"].append(change)
                    trial.states[RESIDUAL] = trial.states[RESIDUAL]._replace(X=X)
            trial._read_matrices()
    table = Table("", "through scales", "scales frozen", title=f"{given.model}, {given.scheme}, {given.starts} starts")
    table.add_row(f"cosine of two means over {given.draws // 2} draws", *[shown(agreements)] * 2)
    for where in dict.fromkeys(where for _, where in found):
        table.add_row(where, *(shown(found[gradient, where]) for gradient in WAYS))
    Console().print(table)


if __name__ == "__main__":
    main()
