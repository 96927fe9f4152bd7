"""The options that say what a method may look at and what it may spend, and what they come to."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.bounds import LARGEST_SEED, LONGEST_WINDOW, MOST_SAMPLES, SHORTEST_WINDOW

if TYPE_CHECKING:
    from slmquant.store.record import CalibrationSpec


class Budget(str, Enum):
    """What learning may cost: two cores, or the authors' setting."""

    FAST = "fast"
    PAPER = "paper"


CorpusOption = Annotated[
    str | None, typer.Option("--corpus", help="Calibration corpus.", show_default="WikiText-2's train split if at hand")
]
SamplesOption = Annotated[int, typer.Option("--samples", min=1, max=MOST_SAMPLES, help="Calibration windows.")]
SeqLenOption = Annotated[
    int, typer.Option("--seq-len", min=SHORTEST_WINDOW, max=LONGEST_WINDOW, help="Tokens in a window.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Of everything that is drawn.")]
BudgetOption = Annotated[Budget, typer.Option("--budget", help="What methods that learn may spend.")]


def calibration(corpus: str | None, samples: int, seq_len: int, seed: int, data: Path | None) -> CalibrationSpec:
    """What the options ask for; without a corpus, the best at hand.

    Raises:
        UnknownNameError: There is no such corpus.
    """
    from slmquant.calib.corpora import calibration_corpus, check_corpus
    from slmquant.store.record import CalibrationSpec

    chosen = corpus or calibration_corpus(data)
    check_corpus(chosen)
    return CalibrationSpec(corpus=chosen, num_samples=samples, seq_len=seq_len, seed=seed)
