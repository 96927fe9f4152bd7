"""How far SpinQuant's gradient can be followed: the loss along it, on the windows that it came from and on others.

    python benchmarks/rotation_gradient.py smollm2-135m-instruct --windows 4

A random Hadamard rotation is the start. The gradient of the loss with rounded activations, straight through the
rounding, gives a direction on the Cayley curve; the rotation of the residual stream is moved along it by some lengths
(Frobenius; the rotation itself has the length sqrt(width)). Where the loss falls on the windows of the gradient and not
on others, the gradient has learned how those windows happen to be rounded. Directions drawn at random show how much the
loss changes for no reason.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.core.rotation import cayley
from slmquant.methods import spinquant
from slmquant.methods._base import Work
from slmquant.methods.quarot import random_rotations, unturned_stream
from slmquant.model.loading import load
from slmquant.model.relations import discover
from slmquant.model.rotate import fold_norms_
from slmquant.progress import Silent
from slmquant.schemes import parse

_RESIDUAL = spinquant._RESIDUAL


def direction(matrix: Tensor, gradient: Tensor) -> Tensor:
    """The skew-symmetric generator of the Cayley curve that goes downhill, of length 1."""
    product = -gradient.double() @ matrix.mT
    half = product - matrix @ (matrix.mT @ product) / 2
    skew = half - half.mT
    return skew / skew.norm()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--scheme", default="W4A4")
    parser.add_argument("--windows", type=int, default=4, help="of 512 tokens: as many for the gradient as held out")
    parser.add_argument("--moves", default="0.1,0.3,1,3")
    given = parser.parse_args()
    loaded = load(given.model)
    model = loaded.model
    ids = calibration_windows(loaded.tokenizer, load_corpus("wikitext2_train"), 2 * given.windows, 512, 0)
    learned_from, held_out = ids[: given.windows], ids[given.windows :]
    calibration = FreshCalibration(model, ids, torch.bfloat16, Silent())
    work = Work(
        model,
        discover(model),
        parse(given.scheme),
        calibration,
        torch.bfloat16,
        0,
        "fast",
        Silent(),
        notes=[],
        online=[],
    )
    stream = unturned_stream(work)
    for block in stream.blocks:
        fold_norms_(model, block)
    trial = spinquant._Trial(work, stream, random_rotations(stream, work.seed))
    table = Table("direction", "moved by", "its own windows", "held out", title=f"{given.model}, {given.scheme}")
    with trial.installed():
        with torch.enable_grad():
            for part in spinquant._parts(learned_from):
                (trial._loss(part) * len(part) / len(learned_from)).backward()
        start = trial._states[_RESIDUAL].X
        gradient = trial._matrices[_RESIDUAL].grad
        drawn = torch.randn(start.shape, generator=torch.Generator().manual_seed(1), dtype=start.dtype)
        ways = {"gradient": direction(start, gradient), "random": direction(start, drawn)}
        for name, skew in ways.items():
            for move in (0.0, *map(float, given.moves.split(","))):
                moved = cayley(move * skew, start)
                trial._states[_RESIDUAL] = trial._states[_RESIDUAL]._replace(X=moved)
                trial._read_matrices()
                losses = [trial.candidate(windows).loss for windows in (learned_from, held_out)]
                table.add_row(name, f"{move:g}", *(f"{loss:.4f}" for loss in losses))
    Console().print(table)


if __name__ == "__main__":
    main()
