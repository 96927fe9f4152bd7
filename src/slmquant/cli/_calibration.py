"""Command-line options for calibration data and the learning budget."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.bounds import LARGEST_SEED, LONGEST_WINDOW, MOST_SAMPLES, SHORTEST_WINDOW

if TYPE_CHECKING:
    from slmquant.schemes import Scheme
    from slmquant.store.record import CalibrationSpec


class Budget(str, Enum):
    """Cost of learning and of choosing types: sized for two cores, or the authors' setting."""

    FAST = "fast"
    PAPER = "paper"


CorpusOption = Annotated[
    str | None,
    typer.Option("--corpus", help="Calibration corpus.", show_default="WikiText-2's train split if available"),
]
SamplesOption = Annotated[
    int, typer.Option("--samples", min=1, max=MOST_SAMPLES, help="Number of calibration windows.")
]
SeqLenOption = Annotated[
    int, typer.Option("--seq-len", min=SHORTEST_WINDOW, max=LONGEST_WINDOW, help="Tokens per calibration window.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Random seed.")]
MixtureOption = Annotated[
    Path | None,
    typer.Option("--mixture", help="File with a type for every weight, instead of a scheme; see `slmquant mixture`."),
]
MaxBytesOption = Annotated[
    str | None,
    typer.Option("--max-bytes", help="Instead of a scheme: the best types for a GGUF file of at most this, e.g. 92MB."),
]
BudgetOption = Annotated[Budget, typer.Option("--budget", help="How long to learn, and to choose types.")]


def chosen_scheme(scheme: str | None, mixture: Path | None, default: str, max_bytes: str | None = None) -> Scheme | int:
    """The scheme that the options name, or the number of bytes that types are to be chosen for.

    Raises:
        SchemeError: Several are given, or one of them cannot be read.
    """
    from slmquant.cache.upkeep import read_size
    from slmquant.errors import SchemeError
    from slmquant.schemes import parse
    from slmquant.schemes.mixture_file import read_mixture

    if max_bytes is not None:
        if scheme is not None or mixture is not None:
            other = f"--scheme {scheme}" if scheme is not None else f"--mixture {mixture}"
            raise SchemeError(f"{other} and --max-bytes {max_bytes} both say how weights are stored; leave one out")
        return read_size(max_bytes, "--max-bytes")
    if mixture is None:
        parsed = parse(scheme or default)
        return parsed if parsed.max_bytes is None else parsed.max_bytes
    if scheme is not None:
        raise SchemeError(f"--scheme {scheme} and --mixture {mixture} both say how weights are stored; leave one out")
    return read_mixture(mixture)


def calibration(corpus: str | None, samples: int, seq_len: int, seed: int, data: Path | None) -> CalibrationSpec:
    """The calibration set that the options describe; without a corpus, the best available one.

    Raises:
        UnknownNameError: The corpus is not known.
    """
    from slmquant.calib.corpora import calibration_corpus, check_corpus
    from slmquant.store.record import CalibrationSpec

    chosen = corpus or calibration_corpus(data)
    check_corpus(chosen)
    return CalibrationSpec(corpus=chosen, num_samples=samples, seq_len=seq_len, seed=seed)
