"""Repeats quantizations that take only seconds, each in its own process, and reports the median.

The first few tenths of a second of a process depend as much on the machine's load as on the method. A repetition loads
and quantizes the same model and discards it, so it changes neither the cell's measurements nor its memory.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from slmquant import methods
from slmquant.calib.cached import CachedCalibration
from slmquant.machine.environment import usable_cores
from slmquant.machine.phases import Meter
from slmquant.machine.process import Failure, Isolation, run_isolated
from slmquant.model.computing.modes import MODES
from slmquant.model.sources.load import load
from slmquant.progress import Progress
from slmquant.quantization import quantize_
from slmquant.runs.inputs import check_model
from slmquant.runs.work import CellJob, CellResult
from slmquant.schemes import parse
from slmquant.store.record import Phase
from slmquant.tracks.consumption import consumption_metrics, median_phase

SHORT_CPU_S = 5.0
"""Quantizations that take less processor time than this, in seconds, are repeated."""
RUNS = 3
"""Runs of a repeated quantization, the first included."""


def run_quantize(job: CellJob, progress: Progress) -> Phase:
    """Load and quantize as `runs.work.run_cell` does; returns the cost of quantizing.

    Raises:
        SlmquantError: The model or the method cannot do this.
    """
    torch.set_num_threads(usable_cores())
    torch.manual_seed(job.spec.seed)
    loaded = load(job.spec.model, device=job.spec.device, mapped=not methods.load(job.spec.method).rewrites_weights)
    check_model(job.spec, loaded)
    calibration = CachedCalibration(job.spec.calibration, job.captured, loaded, job.places.data_dir)
    meter = Meter(job.spec.device)
    progress.start("quantize again", None)
    with meter.phase("quantize"):
        quantize_(
            loaded.model, job.spec.method, parse(job.spec.scheme), calibration,
            dtype=MODES[job.spec.compute_dtype].linears, seed=job.spec.seed, budget=job.spec.budget or "fast",
            progress=progress,
        )  # fmt: skip
    return meter.phases[0]


def with_repeats(result: CellResult, job: CellJob, progress: Progress, isolation: Isolation) -> CellResult:
    """`result` with median costs if its quantization was short; unchanged if it was not, or if repeating failed."""
    first = next((phase for phase in result.phases if phase.name == "quantize"), None)
    if first is None or first.cpu_s is None or first.cpu_s >= SHORT_CPU_S or job.spec.method == methods.REFERENCE:
        return result
    if parse(job.spec.scheme).max_bytes is not None:  # its types would be chosen again
        return result
    runs = [first]
    for _ in range(RUNS - 1):
        again = run_isolated(run_quantize, job, progress, isolation)
        if isinstance(again, Failure):
            return result
        runs.append(again)
    phases = tuple(median_phase(runs) if phase is first else phase for phase in result.phases)
    tokens = next((int(metric.value) for metric in result.metrics if metric.name == "calibration_tokens"), None)
    renewed = {metric.name: metric for metric in consumption_metrics(phases_until_quantized(phases), tokens)}
    metrics = tuple(metric if metric.task else renewed.get(metric.name, metric) for metric in result.metrics)
    return replace(result, phases=phases, metrics=metrics)


def phases_until_quantized(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """The phases that the consumption track counts."""
    return tuple(phase for phase in phases if phase.name in ("load", "capture", "quantize"))
