"""The Python interface of diagnosis, which `slmquant.api` offers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from slmquant.calib.corpora import calibration_corpus, judging_corpora
from slmquant.diagnosis.explain import explain as run_explanation
from slmquant.diagnosis.questions import ask as run_questions
from slmquant.diagnosis.subject import Setup
from slmquant.errors import ModelError
from slmquant.model.sources.load import identify
from slmquant.places import Places
from slmquant.progress import Progress, Silent
from slmquant.runs.precision import Dtype
from slmquant.schemes import parse
from slmquant.store.experiments import Experiments
from slmquant.store.explanations import Explanation
from slmquant.store.record import Budget, CalibrationSpec, CellSpec


def questions(
    source: str,
    schemes: Sequence[str],
    *,
    ask: Collection[str] = ("operands",),
    method: str = "rtn",
    calibration: CalibrationSpec | None = None,
    texts: Sequence[str] | None = None,
    windows: int = 12,
    length: int = 512,
    dtype: Dtype = "auto",
    seed: int = 0,
    budget: Budget = "fast",
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Experiments:
    """Find out by experiments what a model's divergence comes from; `analysis.operands` and `outliers` evaluate them.

    Args:
        source: A known name, a hub id, a folder or a GGUF file.
        schemes: Scheme names. Each must round at least two of weights, activations, cache and embeddings.
        ask: Questions, some of `store.experiments.QUESTIONS`.
        method: The method that rounds.
        calibration: Calibration set, as for `quantize`; its corpus must not be among `texts` if the method uses it.
        texts: Names of corpora to measure on; by default `calib.corpora.judging_corpora`.
        windows: Number of windows of each text.
        length: Tokens of a window.
        dtype: Compute dtype; `auto` measures and decides.
        seed: Random seed of the method.
        budget: Learning budget of a method that learns.
        data_dir: Local folder of data, tried before packages and the hub.
        progress: Receives progress updates.

    Raises:
        SlmquantError: It cannot be done; the message says why and what to do.
    """
    spec = calibration or CalibrationSpec(corpus=calibration_corpus(data_dir))
    named = tuple(dict.fromkeys(judging_corpora(data_dir) if texts is None else texts))
    setup = Setup(source, method, spec, named, windows, length, dtype, seed, budget, Places(data_dir))
    return run_questions(setup, [parse(name) for name in schemes], ask, progress or Silent())


def explain(
    cell: CellSpec | tuple[str, str, str],
    *,
    texts: Sequence[str] | None = None,
    windows: int = 6,
    length: int = 512,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Find out where the divergence of a quantized model comes from, and where in the text it shows.

    Args:
        cell: The spec of a measured cell, which is quantized again; or a model, a method and a scheme.
        texts: Names of corpora to measure on; by default `calib.corpora.judging_corpora`.
        windows: Number of windows of each text.
        length: Tokens of a window.
        data_dir: Local folder of data, tried before packages and the hub.
        progress: Receives progress updates.

    Raises:
        SlmquantError: It cannot be done; the message says why and what to do.
    """
    places, usual = Places(data_dir), CalibrationSpec(corpus=calibration_corpus(data_dir))
    named = tuple(dict.fromkeys(judging_corpora(data_dir) if texts is None else texts))
    measured = (named, windows, length)
    if not isinstance(cell, CellSpec):
        source, method, scheme = cell
        setup = Setup(source, method, usual, *measured, "auto", 0, "fast", places)
        return run_explanation(setup, parse(scheme), progress or Silent())
    if (sha256 := identify(cell.model, progress).sha256) != cell.model_sha256:
        raise ModelError(
            f"the weights of {cell.model} have changed since the cell was measured: fingerprint {sha256[:16]}, "
            f"expected {cell.model_sha256[:16]}; restore them, or explain the model as it is with --method and --scheme"
        )
    setup = Setup(
        *(cell.model, cell.method, cell.calibration or usual, *measured),
        *(cell.compute_dtype, cell.seed, cell.budget or "fast", places),
    )
    return run_explanation(setup, parse(cell.scheme), progress or Silent())
