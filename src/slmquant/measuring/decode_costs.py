"""Measures what each of GGUF's types costs a model in llama.cpp, once for each machine and version.

Files are made of the model itself, rounded to nearest, as speed does not depend on the values of weights: one for each
type, with `BASE` for weights whose rows do not fit it, and three with random types. They decode in turns, and each is
compared with the file in `BASE` round by round, so that a load which comes and goes changes little. The fastest token
of a round counts, because a disturbance only slows a token down, and on a shared core most are disturbed; over rounds
it is the median.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from slmquant import engines, methods
from slmquant.artifact import Artifact
from slmquant.cache.entries import entry_path, get
from slmquant.cache.write import About, put
from slmquant.calib.calibration import NoCalibration
from slmquant.engine_bench.jobs import EngineJob, EngineResult, Settings
from slmquant.engine_bench.requests import Point
from slmquant.engine_bench.session import run_engines
from slmquant.errors import ModelError, UnavailableError
from slmquant.files import require_space
from slmquant.formats.gguf.writer import FORMAT
from slmquant.machine.environment import environment, usable_cores
from slmquant.mixing.candidates import Types
from slmquant.mixing.decode_costs import DecodeCosts, TimedFile, fitted, numbers_read
from slmquant.mixing.sensitivity import fitting_types
from slmquant.model.discovery.relations import discover
from slmquant.model.running.trial import stored_weight
from slmquant.model.sources.identity import key_of
from slmquant.model.sources.load import load
from slmquant.places import Places
from slmquant.progress import Progress, track
from slmquant.quantization import quantize_
from slmquant.runs.engine_cells import groups
from slmquant.schemes import Scheme, parse
from slmquant.store.record import Budget

BASE = "Q8_0"
"""The type that others are compared with; rows that do not fit it fit no type."""
ENGINE = "llamacpp"
_VERSION = 3
_MIXED = 3
_TOKENS = 16
_ROUNDS = 10
_LIMIT_S = 0.1


def decode_costs(source: str, method: str, budget: Budget, progress: Progress) -> DecodeCosts:
    """What types cost the model on this machine; an earlier measurement is read from the cache.

    Args:
        source: A known name, a hub id, a folder or a GGUF file.
        method: The method whose types are measured.
        budget: Decides which types are tried.
        progress: Receives progress updates.

    Raises:
        UnavailableError: llama.cpp is not installed.
        RefusedError: GGUF does not hold the model.
        ModelError: llama.cpp cannot run a file.
        SpaceError: The disk is too full for the files.
    """
    status = engines.load(ENGINE).status()
    if not status.usable:
        raise UnavailableError(f"speed is measured in llama.cpp: {status.reason}")
    machine, threads = environment(), usable_cores()
    loaded = load(source, progress=progress)
    relations = discover(loaded.model)
    types = fitting_types(loaded.model, relations, method, budget)
    key = [_VERSION, key_of(source), types, status.version, status.instructions, machine.cpu, threads]
    entry = entry_path(Places().cache_dir, "decode_costs", key)
    if (known := get(entry)) is not None:
        return DecodeCosts.model_validate_json(known)
    elements = {name: stored_weight(loaded.model, name).numel() for name in types}
    numbers = numbers_read(elements, relations)
    del loaded
    tables = files_to_time(types)
    with tempfile.TemporaryDirectory(prefix="slmquant-") as scratch:
        require_space(Path(scratch), len(tables) * 2 * sum(elements.values()))
        paths = [
            _write(source, table, Path(scratch) / f"{place}.gguf")
            for place, table in enumerate(track(tables, "write files of each type", progress))
        ]
        seconds = _timed(paths, threads, progress)
    files = [TimedFile(_counted(table, numbers), each) for table, each in zip(tables, seconds, strict=True)]
    conditions = f"{status.version}, {machine.cpu}, {threads} thread{'s' if threads > 1 else ''}, short context"
    found = fitted(files[:-_MIXED], files[-_MIXED:], conditions)
    put(entry, About(source, "decode cost of types"), found.model_dump_json().encode())
    return found


def files_to_time(types: Types) -> list[dict[str, str]]:
    """The types of each file: all `BASE`, then one for each other type, then random ones."""
    kinds = dict.fromkeys(kind for several in types.values() for kind in several if kind != BASE)
    pure = [{name: kind if kind in several else BASE for name, several in types.items()} for kind in (BASE, *kinds)]
    drawn = np.random.default_rng(0)
    mixed = [
        {name: several[int(drawn.integers(len(several)))] for name, several in types.items()} for _ in range(_MIXED)
    ]
    return [*pure, *mixed]


def _counted(table: Mapping[str, str], numbers: Mapping[str, int]) -> dict[str, int]:
    counts = Counter[str]()
    for name, kind in table.items():
        counts[kind] += numbers[name]
    return dict(counts)


def _write(source: str, table: Mapping[str, str], path: Path) -> Path:
    """A file with these types."""
    loaded = load(source)
    scheme = Scheme.of_table({name: parse(kind).weights for name, kind in table.items()})
    rounded = quantize_(loaded.model, "rtn", scheme, NoCalibration(), recipe=methods.load("rtn"))
    FORMAT.write(Artifact(rounded, loaded.tokenizer, source, loaded.sha256), path)
    return path


def _timed(paths: Sequence[Path], threads: int, progress: Progress) -> list[float]:
    """Seconds per token of each file; as many as fit into memory are opened side by side, the first with each."""
    settings = Settings(points=(Point(0, _TOKENS),), rounds=_ROUNDS, threads=(threads,), limit_s=_LIMIT_S)
    sizes = {path: path.stat().st_size for path in paths}
    bases, ratios = list[float](), dict[Path, float]()
    for together in groups(sizes, paths[0], psutil.virtual_memory().available):
        jobs = [EngineJob(path.name, ENGINE, path, no_reference="only its speed is asked for") for path in together]
        rounds = [_rounds(result) for result in run_engines(jobs, settings, progress=progress)]
        bases += rounds[0]
        ratios |= {path: ratio(rounds[0], each) for path, each in zip(together, rounds, strict=True)}
    return [median(bases) * ratios[path] for path in paths]


def _rounds(result: EngineResult) -> list[float]:
    """Seconds of the fastest token in each round."""
    if result.status != "ok" or not result.items:
        raise ModelError(f"llama.cpp could not be timed: {result.reason}")
    return [min(value for name, value in item.values.items() if name.startswith("step_")) for item in result.items]


def ratio(base: Sequence[float], other: Sequence[float]) -> float:
    """How much longer a file takes than another that was timed in the same rounds."""
    return median(seconds / of_base for of_base, seconds in zip(base, other, strict=True))
