"""Errors of GGUF's types by their bits, on linears whose rows are whole blocks of 256.

    python benchmarks/gguf_types.py stories15m

For each type: the error of a linear's output relative to the output, under inputs that calibration did not use, with
tokens weighted relative to their energy; the root of the mean square over some linears at even distances. `range`
rounds to nearest with scales that cover each range, `searched` with scales searched for the inputs (`kquant_imatrix`),
`slmq` with feedback.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from printed import write_printed
from rich.console import Console
from rich.table import Table
from torch import Tensor

from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.corpora import load_corpus
from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.calib.windows import calibration_windows
from slmquant.machine.environment import environment
from slmquant.mixing.candidates import storage
from slmquant.mixing.sensitivity import rounding_of
from slmquant.model.computing.grids import grid_of, stored_bits
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.sources.load import load
from slmquant.progress import Silent
from slmquant.schemes.numbers import GgufName

METHODS: Mapping[str, str] = {"range": "rtn", "searched": "kquant_imatrix", "slmq": "slmq"}
CORPUS, LENGTH = "wikitext2_train", 512


@torch.no_grad()
def main() -> None:
    """Print the errors of every type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="stories15m")
    parser.add_argument("--samples", type=int, default=64, help="windows of calibration; a quarter as many judge")
    parser.add_argument("--linears", type=int, default=6)
    parser.add_argument("--output", type=Path, help="also write the results here as JSON, for the documents' tables")
    given = parser.parse_args()
    loaded = load(given.model)
    model, relations = loaded.model, discover(loaded.model)
    windows = calibration_windows(loaded.tokenizer, load_corpus(CORPUS), given.samples * 5 // 4, LENGTH, 0)
    wanted: frozenset[Statistic] = frozenset({"hessian_energy"})
    seen, unseen = (
        FreshCalibration(model, part, torch.float32, Silent()).statistics(relations, wanted)
        for part in (windows[: given.samples], windows[given.samples :])
    )
    names = [name for name in relations.linears if weight_at(model, name).shape[1] % 256 == 0]
    names = names[:: -(-len(names) // given.linears)]
    heads, rows = ["type", "bits", *METHODS], list[list[str]]()
    groups = {name: group.linears[0] for group in relations.groups for name in group.linears}
    for kind in sorted(get_args(GgufName), key=bits):
        errors = {label: list[float]() for label in METHODS}
        for name in names:
            W, inputs, H = weight_at(model, name).float(), seen[groups[name]], unseen[groups[name]]
            for label, method in METHODS.items():
                rounded = rounding_of(method).round(W, grid_of(storage(kind)), inputs)
                errors[label].append(squared(rounded.dequantize() - W, H) / squared(W, H))
        means = [f"{100 * torch.tensor(several).mean().sqrt():.2f} %" for several in errors.values()]
        rows.append([kind, f"{bits(kind):.4g}", *means])
    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
    if given.output is not None:
        kinds = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
        conditions = f"{given.model}, {len(names)} linears ({kinds}), {given.samples} windows of {LENGTH} of {CORPUS}"
        write_printed(given.output, heads, rows, f"{conditions}; {environment().cpu}.")


def bits(kind: str) -> float:
    """Bits of a weight."""
    return stored_bits(storage(kind), 1, 256) / 256


def squared(weight: Tensor, inputs: InputStatistics) -> float:
    """Mean squared output of a weight, or of an error of it."""
    return float((weight @ inputs.weighted("energy") * weight).sum(dtype=torch.float64))


if __name__ == "__main__":
    main()
