"""The Python interface: the command line's functions, as public names of `slmquant`.

import slmquant as sq

model = sq.quantize("smollm2-135m-instruct", method="gptq", scheme="W4A16g64")
print(f"{model.size.stored_bytes / 1e6:.0f} MB, {model.size.bpw:.2f} bits per weight")
model.save("smollm2-gptq")
for metric in sq.evaluate(model, ["wikitext2:8", "arc_easy:100"]).metrics:
    print(metric.name, metric.task, metric.value)

records = sq.bench(["smollm2-135m-instruct"], methods=["rtn", "gptq"], schemes=["W4A16g64"], tasks=["wikitext2:8"])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from slmquant import methods, tasks
from slmquant.artifact import Artifact as Artifact
from slmquant.calib.cached import CachedCalibration
from slmquant.calib.calibration import NoCalibration
from slmquant.calib.corpora import calibration_corpus, load_corpus
from slmquant.diagnosis.interface import explain as explain
from slmquant.diagnosis.interface import questions as questions
from slmquant.errors import ModelError, RefusedError
from slmquant.formats import native
from slmquant.inspection.inspect import inspect as inspect
from slmquant.methods.common.recipe import Recipe
from slmquant.mixing.choose import Choice
from slmquant.mixing.front import Speed
from slmquant.mixing.sensitivity import Sensitivity, SensitivityJob, fitting_types
from slmquant.mixing.subject import Subject, subject_of
from slmquant.model.computing.modes import MODES, mode_of
from slmquant.model.discovery.relations import discover
from slmquant.model.sources.identity import key_of
from slmquant.model.sources.load import LoadedModel, identify, load
from slmquant.model.sources.resolve import place_of
from slmquant.places import Places
from slmquant.progress import Progress, Silent
from slmquant.quantization import quantize_
from slmquant.runs.plan import make_plan
from slmquant.runs.precision import Dtype, chosen_dtype
from slmquant.runs.runner import run
from slmquant.runs.work import evaluation_context
from slmquant.schemes import Scheme, parse
from slmquant.schemes.scheme import FULL_PRECISION_BITS
from slmquant.store import Record, Store, default_store_path
from slmquant.store.record import Budget, CalibrationSpec, TaskSpec
from slmquant.tracks.compression import Evaluation
from slmquant.tracks.compression import evaluate as evaluate_tasks


def quantize(
    source: str,
    method: str,
    scheme: str | Scheme | Choice,
    *,
    calibration: CalibrationSpec | None = None,
    dtype: Dtype = "auto",
    device: str = "cpu",
    seed: int = 0,
    budget: Budget = "fast",
    data_dir: Path | None = None,
    progress: Progress | None = None,
    loaded: LoadedModel | None = None,
) -> Artifact:
    """Quantize one model.

    Args:
        source: A known name, a hub id, a folder or a GGUF file.
        method: Name of a method, or `a+b`.
        scheme: Scheme name, a mixture from a file (`slmquant.schemes.mixture_file.read_mixture`), or one that
            `choose_mixture` chose, whose notes the result then has.
        calibration: Calibration set, for methods that need one; by default 128 windows of 512 tokens of WikiText-2's
            train split, or of a text from a package if that is not available.
        dtype: Compute dtype of calibration and of the result; `auto` measures and decides.
        device: Device to compute on.
        seed: Random seed of the method.
        budget: Learning budget of methods that learn: `fast` suits two cores, `paper` is the authors' setting.
        data_dir: Local folder of data, tried before packages and the hub.
        progress: Receives progress updates.
        loaded: The model in float32 if it is loaded already, which is used up; None to load it.

    Raises:
        SlmquantError: It cannot be done; the message says why and what to do. See `slmquant.errors`.
    """
    progress, places = progress or Silent(), Places(data_dir)
    spec = calibration or CalibrationSpec(corpus=calibration_corpus(data_dir))
    parsed, recipe = _scheme(scheme), methods.load(method)
    if parsed.max_bytes is not None:
        loaded = loaded or load(source, device=device, progress=progress, mapped=False)
        scheme = choose_mixture(
            source, parsed.max_bytes, method=method, calibration=spec, budget=budget, data_dir=data_dir,
            progress=progress, loaded=loaded if device == "cpu" else None,
        )  # fmt: skip
        parsed = scheme.scheme
    if (reason := recipe.refusal(parsed)) is not None:
        raise RefusedError(f"{method}: {reason}")
    loaded = loaded or load(source, device=device, progress=progress, mapped=False)
    _check_text(recipe, spec, budget, loaded, data_dir)
    chosen = chosen_dtype(source, dtype, device, spec.corpus, places, progress, loaded)
    quantized = quantize_(
        loaded.model,
        method,
        parsed,
        CachedCalibration.of(source, spec, recipe.needs_for(parsed), chosen, device, places, progress, loaded),
        dtype=MODES[chosen].linears,
        seed=seed,
        budget=budget,
        progress=progress,
    )
    decided = scheme.notes if isinstance(scheme, Choice) else ()
    quantized = replace(quantized, notes=(*loaded.remarks, *decided, *quantized.notes))
    return Artifact(quantized, loaded.tokenizer, source, loaded.sha256)


def choose_mixture(
    source: str,
    max_bytes: int,
    *,
    method: str = "slmq",
    calibration: CalibrationSpec | None = None,
    budget: Budget = "fast",
    speed: Speed | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    loaded: LoadedModel | None = None,
) -> Choice:
    """Choose a type for every weight, so that the model's GGUF file takes at most `max_bytes`.

    Args:
        source: A known name, a hub id, a folder or a GGUF file.
        max_bytes: Most bytes of the file.
        method: The method that types are tried with, and that should quantize to the result.
        calibration: Calibration set, as for `quantize`; further windows of its corpus judge types.
        budget: Learning budget that the method will have, and how many swaps of types are measured; a text that is too
            short for it is refused here.
        speed: How fast the file has to decode, by what types cost (`slmquant.measuring.decode_costs`); None if that
            does not matter. The result then has those costs, and the front of bytes, speed and divergence.
        data_dir: Local folder of data, tried before packages and the hub.
        progress: Receives progress updates.
        loaded: The model in float32 if it is loaded already, which is left as it is; None to load it.

    Raises:
        SlmquantError: It cannot be done; the message says why and what to do.
    """
    progress, spec = progress or Silent(), calibration or CalibrationSpec(corpus=calibration_corpus(data_dir))
    loaded = loaded or load(source, progress=progress)
    relations = discover(loaded.model)
    types = fitting_types(loaded.model, relations, method, budget)
    _check_text(methods.load(method), spec, budget, loaded, data_dir)
    job = _choosing(source, loaded, method, spec, Places(data_dir), progress, budget)
    return Subject(job, loaded, relations, types, progress).chosen(max_bytes, speed)


def sensitivity(
    source: str,
    *,
    method: str = "slmq",
    calibration: CalibrationSpec | None = None,
    budget: Budget = "fast",
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure what each weight costs in each type of GGUF; an earlier measurement is read from the cache.

    Args:
        source: A known name, a hub id, a folder or a GGUF file.
        method: The method that rounds, one weight at a time.
        calibration: Calibration set, as for `quantize`; further windows of its corpus judge types.
        budget: `fast` rounds every fourth block to every type and estimates the others, `paper` rounds all.
        data_dir: Local folder of data, tried before packages and the hub.
        progress: Receives progress updates.

    Raises:
        SlmquantError: It cannot be done; the message says why and what to do.
    """
    progress, spec = progress or Silent(), calibration or CalibrationSpec(corpus=calibration_corpus(data_dir))
    loaded = load(source, progress=progress)
    job = _choosing(source, loaded, method, spec, Places(data_dir), progress, budget)
    return subject_of(job, loaded, progress).sensitivity()


def _choosing(
    source: str,
    loaded: LoadedModel,
    method: str,
    spec: CalibrationSpec,
    places: Places,
    progress: Progress,
    budget: Budget,
) -> SensitivityJob:
    """How types of a loaded model are chosen."""
    corpus = load_corpus(spec.corpus, places.data_dir, progress)
    chosen = chosen_dtype(source, "auto", "cpu", spec.corpus, places, progress, loaded)
    return SensitivityJob(source, key_of(source), corpus.card.sha256, method, spec, MODES[chosen], places, budget)


def _check_text(
    recipe: Recipe, spec: CalibrationSpec, budget: Budget, loaded: LoadedModel, data_dir: Path | None
) -> None:
    """Refuse a text that is too short for a method that judges itself, before anything is computed."""
    if recipe.tuning is not None:
        CachedCalibration(spec, None, loaded, data_dir).further(recipe.tuning.windows(budget))


def least_bytes(source: str, scheme: str | Scheme) -> int:
    """A lower bound, in bytes, on the size of a quantized model; 0 if the model is not here yet.

    It counts codes only, as if every parameter took the fewest bits that the scheme gives to any.
    """
    if place_of(source) is None:
        return 0
    parsed = _scheme(scheme)
    bits = [FULL_PRECISION_BITS] + [spec.format.bits for spec in parsed.weight_specs]
    return math.floor(identify(source).card.parameters * min(bits) / 8)


def open_artifact(folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Artifact:
    """Read an artifact that `Artifact.save` wrote.

    Raises:
        ModelError: The folder was written by a newer version, or is truncated or damaged.
    """
    return native.load(Path(folder), dtype, device)


def evaluate(
    artifact: Artifact,
    task_names: Sequence[str],
    *,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a quantized model on tasks; the full-precision model is measured first if they compare with it.

    Args:
        artifact: The quantized model.
        task_names: Tasks, each `name` or `name:limit`.
        data_dir: Local folder of data, tried before packages and the hub.
        progress: Receives progress updates.

    Raises:
        UnknownNameError: A task is not known.
        DataError: The data of a task was not found.
    """
    specs = [tasks.parse(name) for name in task_names]
    progress, places = progress or Silent(), Places(data_dir)
    mode = mode_of(artifact.quantized.dtype)
    context = evaluation_context(
        artifact.quantized, mode, artifact.tokenizer, artifact.source, _key(artifact), places, progress
    )
    key = context.reference_key
    missing = [spec for spec in specs if not context.is_reference and not tasks.has_reference(key, spec)]
    if missing:
        _measure_reference(artifact, missing, places, progress)
    return evaluate_tasks(context, specs)


def bench(
    sources: Sequence[str],
    *,
    methods: Sequence[str],
    schemes: Sequence[str],
    tasks: Sequence[str],
    calibration: CalibrationSpec | None = None,
    dtype: Dtype = "auto",
    device: str = "cpu",
    data_dir: Path | None = None,
    store: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Record, ...]:
    """Run models × methods × schemes under identical conditions; cells already in the store are not run again.

    Cells run in processes of their own, which do not run the script again that calls this.

    Raises:
        PlanError: A method, a scheme or a task is not known, or another argument is wrong.
        UnknownNameError: A model is not known.
    """
    plan = make_plan(
        {
            "models": sources,
            "methods": methods,
            "schemes": schemes,
            "tasks": tasks,
            "calibration": calibration or CalibrationSpec(corpus=calibration_corpus(data_dir)),
            "dtype": dtype,
            "device": device,
        }
    )
    with Store(store or default_store_path()) as opened:
        return run(plan, opened, data_dir=data_dir, progress=progress).records


def _scheme(scheme: str | Scheme | Choice) -> Scheme:
    if isinstance(scheme, Choice):
        return scheme.scheme
    return parse(scheme) if isinstance(scheme, str) else scheme


def _measure_reference(artifact: Artifact, specs: Sequence[TaskSpec], places: Places, progress: Progress) -> None:
    """Run the full-precision model over `specs` to cache its states."""
    loaded = load(artifact.source, device=artifact.quantized.model.device)
    if loaded.sha256 != artifact.source_sha256:
        raise ModelError(
            f"the weights of {artifact.source} have changed: fingerprint {loaded.sha256[:16]}, expected "
            f"{artifact.source_sha256[:16]} as in the artifact; restore them, or quantize the model again"
        )
    reference = quantize_(loaded.model, methods.REFERENCE, Scheme(), NoCalibration(), dtype=artifact.quantized.dtype)
    mode = mode_of(reference.dtype)
    context = evaluation_context(reference, mode, artifact.tokenizer, artifact.source, _key(artifact), places, progress)
    evaluate_tasks(context, specs)


def _key(artifact: Artifact) -> str:
    """Cache key of the artifact's full-precision model."""
    return key_of(artifact.source, artifact.source_sha256)
