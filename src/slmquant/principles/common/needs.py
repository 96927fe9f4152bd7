"""Commands that measure what a principle lacks, under the conditions under which a model was measured already."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from slmquant.principles.common.cells import Cell, ModelCells, calibration_of
from slmquant.principles.common.contract import Need
from slmquant.store.export import calibration_label
from slmquant.store.record import CalibrationSpec


def need(
    model: ModelCells,
    cells: Sequence[Cell],
    calibration: CalibrationSpec | None = None,
    tasks: Sequence[str] = (),
) -> Need:
    """The need of some cells.

    Args:
        model: The model.
        cells: The cells; the command measures every scheme by every method.
        calibration: Calibration set; None for the model's usual one.
        tasks: Tasks besides the model's usual text.
    """
    command = ["slmquant", "bench", model.model]
    command += ["--methods", ",".join(dict.fromkeys(cell.method for cell in cells))]
    command += ["--schemes", ",".join(dict.fromkeys(cell.scheme for cell in cells))]
    usual = calibration or usual_calibration(model)
    where = ""
    if model.texts:
        text = model.texts[0]
        where = f" on {', '.join((text.task, *tasks))}"
        command += ["--tasks", ",".join((text.task, *tasks)), "--dtype", text.records[0].spec.compute_dtype]
    if usual is not None:
        command += ["--corpus", usual.corpus, "--samples", str(usual.num_samples), "--seq-len", str(usual.seq_len)]
    words = f"{model.model}: {', '.join(map(str, cells))}{where}"
    words += "" if calibration is None else f", calibrated on {calibration_label(calibration)}"
    return Need(words, shlex.join(command))


def usual_calibration(model: ModelCells) -> CalibrationSpec | None:
    """The calibration set of most of a model's cells; None if none was calibrated."""
    sets = Counter(calibration for record in model.records if (calibration := calibration_of(record)[0]) is not None)
    return sets.most_common(1)[0][0] if sets else None
