"""Whether SpinQuant's gradient points where the expected loss falls: cosines with the gradient of the dithered loss.

    python benchmarks/rotation_gradient.py smollm2-135m-instruct --windows 2

Rounding errors are the scale of a token times a sawtooth of mean 0, so the expected loss is the loss behind dithered
tokens, which can be differentiated. The command prints the cosine of that gradient, on the Cayley curves of the
rotation of the residual stream, with the gradient through the scales of tokens (`spinquant`) and with scales held
constant (`spinquant_frozen`), on the same windows and on others; and what the dithered loss of the others does along
each of them, for short steps. Means and standard errors are over starts.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.core.rotation import cayley
from slmquant.methods._base import Work
from slmquant.methods._rotation_trial import RESIDUAL, Gradient, Trial
from slmquant.methods.quarot import random_rotations, unturned_stream
from slmquant.model.loading import load
from slmquant.model.relations import discover
from slmquant.model.rotate import fold_norms_
from slmquant.progress import Silent
from slmquant.schemes import parse


def downhill(X: Tensor, gradient: Tensor) -> Tensor:
    """The skew-symmetric generator of the Cayley curve that goes downhill, of length 1."""
    product = -gradient.double() @ X.mT
    skew = product - product.mT
    return skew / skew.norm()


def shown(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):+.4f} ± {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--scheme", default="W4A4")
    parser.add_argument("--corpus", default="wikitext2_train")
    parser.add_argument("--windows", type=int, default=2, help="in each of the two sets")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--starts", type=int, default=2, help="random rotations to start from")
    parser.add_argument("--moves", default="0.02,0.05,0.1", help="lengths of steps (Frobenius), at most 0.1")
    given = parser.parse_args()
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
    for seed in range(given.starts):
        ways: dict[tuple[str, int], Tensor] = {}
        trial = Trial(work, stream, random_rotations(stream, seed))
        X = trial.states[RESIDUAL].X
        with torch.no_grad(), trial.installed():
            for gradient in get_args(Gradient):
                trial.gradient = gradient
                for half in (0, 1):
                    ways[gradient, half] = downhill(X, trial.gradients(ids[half * count :][:count])[RESIDUAL])
            for gradient in ("scale", "frozen"):
                for half in (0, 1):
                    for where, other in (("cosine, same windows", half), ("cosine, other windows", 1 - half)):
                        cosine = float((ways[gradient, half] * ways["dithered", other]).sum())
                        found[gradient, where].append(cosine)
            start = trial.candidate(ids[count:]).loss
            for gradient in ("scale", "frozen"):
                for move in moves:
                    moved = cayley(move * ways[gradient, 0], X)
                    trial.states[RESIDUAL] = trial.states[RESIDUAL]._replace(X=moved)
                    trial._read_matrices()
                    change = trial.candidate(ids[count:]).loss - start
                    found[gradient, f"loss of others, moved by {move:g}"].append(change)
                    trial.states[RESIDUAL] = trial.states[RESIDUAL]._replace(X=X)
    table = Table("", "through scales", "scales frozen", title=f"{given.model}, {given.scheme}, {given.starts} starts")
    for where in dict.fromkeys(where for _, where in found):
        table.add_row(where, *(shown(found[gradient, where]) for gradient in ("scale", "frozen")))
    Console().print(table)


if __name__ == "__main__":
    main()
