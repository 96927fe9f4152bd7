"""What a file of `slmq` costs, step by step: processor time and memory, from an empty cache to the written file.

    python benchmarks/slmq_cost.py smollm2-135m-instruct --max-bytes 91.74MB

With the sensitivity of a larger budget (`slmquant sensitivity MODEL --budget paper -o whole.json`) the losses that
were estimated are compared with those for which every block was rounded to every type:

    python benchmarks/slmq_cost.py smollm2-135m-instruct --max-bytes 91.74MB --whole whole.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from printed import write_printed
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from slmquant import api, formats
from slmquant.cache.upkeep import read_size
from slmquant.machine.environment import environment, usable_cores
from slmquant.machine.phases import Meter
from slmquant.mixing.choose import Choice
from slmquant.mixing.sensitivity import Sensitivity
from slmquant.model.size import count_parameters
from slmquant.model.sources.load import load
from slmquant.model.sources.resolve import place_of
from slmquant.store.record import Budget, Phase

METHOD = "slmq"


class Steps:
    """Measures every phase that is reported as progress; what comes before the first one counts as loading."""

    def __init__(self) -> None:
        self.meter = Meter()
        self._open = ExitStack()
        self.start("load", None)

    def start(self, phase: str, total: int | None) -> None:
        """End the last phase and begin the next."""
        del total
        self._open.close()
        self._open.enter_context(self.meter.phase(phase))

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""

    def finished(self) -> list[Phase]:
        """All phases."""
        self._open.close()
        return self.meter.phases


def main() -> None:
    """Print every step, and how the estimated losses compare with whole ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="stories15m")
    parser.add_argument("--max-bytes", default="14.7MB")
    parser.add_argument("--budget", choices=["fast", "paper"], default="fast")
    parser.add_argument("--whole", type=Path, help="sensitivity with the budget paper, to compare with")
    parser.add_argument("--output", type=Path, help="also write the results here as JSON, for the documents' tables")
    given = parser.parse_args()
    source = str(place_of(given.model) or given.model)
    with tempfile.TemporaryDirectory(prefix="slmquant-") as scratch:
        os.environ["SLMQUANT_CACHE"] = scratch
        steps = Steps()
        choice, notes, float32 = make(source, read_size(given.max_bytes, "--max-bytes"), given.budget, scratch, steps)
        phases = steps.finished()
        found = api.sensitivity(source, budget=given.budget)
    heads = ["step", "CPU s", "most memory, GB"]
    peaks = [one.peak_rss_bytes or 0 for one in phases]
    rows = [[one.name, f"{one.cpu_s or 0:.0f}", f"{peak / 1e9:.2f}"] for one, peak in zip(phases, peaks, strict=True)]
    total, most = sum(one.cpu_s or 0 for one in phases), max(peaks)
    rows.append(["all", f"{total:.0f}", f"{most / 1e9:.2f}"])
    lines = [f"the model in float32 has {float32 / 1e9:.2f} GB: {most / float32:.1f} times as much at most", *notes]
    if given.whole is not None:
        lines += compared(found, Sensitivity.model_validate_json(given.whole.read_text(encoding="utf-8")), choice)
    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    console.print("\n".join(lines), markup=False)
    if given.output is not None:
        conditions = f"{given.model}, at most {given.max_bytes}, budget {given.budget}, nothing in the cache"
        machine = f"{usable_cores()} core of {environment().cpu}, beside other work"
        write_printed(given.output, heads, rows, f"{conditions}; {machine}.", lines)


def make(source: str, size: int, budget: Budget, folder: str, steps: Steps) -> tuple[Choice, tuple[str, ...], int]:
    """Make the file; returns its types, what was noted, and the bytes of the model in float32."""
    loaded = load(source, progress=steps, mapped=False)
    float32 = 4 * count_parameters(loaded.model)
    choice = api.choose_mixture(source, size, method=METHOD, budget=budget, progress=steps, loaded=loaded)
    made = api.quantize(source, METHOD, choice.scheme, budget=budget, progress=steps, loaded=loaded)
    steps.start("write", None)
    written = formats.load("gguf").write(made, Path(folder) / "model.gguf")
    return choice, (*made.quantized.notes, f"the file has {written.stored_bytes} bytes"), float32


def compared(found: Sensitivity, whole: Sensitivity, choice: Choice) -> list[str]:
    """How estimated losses and the types chosen by them compare with whole ones."""
    pairs = [
        (found.losses[name][kind], loss) for name, several in whole.losses.items() for kind, loss in several.items()
    ]
    guesses, losses = np.log(np.array(pairs)).T
    off = np.sqrt(np.mean((guesses - losses) ** 2))
    expected = sum(whole.losses[name][kind.type] for name, kind in choice.weights.items())
    return [
        f"{len(pairs)} losses, against those for which every block was rounded to every type: rank correlation "
        f"{spearmanr(guesses, losses).statistic:.4f}, off by {off:.1%}; the chosen types cost "
        f"{choice.predicted:.4f} by the former, {expected:.4f} by the latter"
    ]


if __name__ == "__main__":
    main()
