"""References for parity: fixed text, the torch reference's log-probabilities of it, and facts of the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from slmquant import engines, formats
from slmquant._version import __version__
from slmquant.boundary import guarded, or_none
from slmquant.cache.entries import entry_path, is_sound
from slmquant.calib.corpora import calibration_corpus, load_corpus
from slmquant.calib.windows import text_tokens, window_bos
from slmquant.engine_bench.figures import TokenCost
from slmquant.engine_bench.jobs import EngineJob, EngineResult, Reference, Settings
from slmquant.engine_bench.parity import FILE_VERSION, Windows
from slmquant.engine_bench.process import EngineProcess
from slmquant.engine_bench.requests import Open, WriteReference
from slmquant.engine_bench.session import run_engines
from slmquant.engines.common.contract import Engine, OpenOptions, WithoutSpeed
from slmquant.engines.common.torch_sessions import TorchEngine
from slmquant.errors import DataError, ModelError, SlmquantError
from slmquant.files import sha256
from slmquant.formats.common.checkpoint_reader import checkpoint_of
from slmquant.formats.common.contract import StatesContext
from slmquant.formats.native.folder import MANIFEST, is_native
from slmquant.machine.environment import usable_cores
from slmquant.machine.meters import bytes_on_disk
from slmquant.machine.process import Failure
from slmquant.model.compatibility.context import context_limit, fitting
from slmquant.model.size import count_parameters
from slmquant.model.sources.resolve import public_name, resolve
from slmquant.places import Places
from slmquant.progress import Progress, Silent
from slmquant.schemes import parse

REFERENCE_ENGINE = "torch_eager"

NO_SPEED = (
    "no speed: torch multiplies a slmquant folder's rounded weights in full precision, so its speed says nothing about "
    "a quantized model; export it for another engine (slmquant export)"
)

_TEXTS = (".json", ".txt", ".jinja")
"""Suffixes of files without weights: configuration, tokenizer, templates."""


@dataclass(frozen=True)
class TextOptions:
    """Amount of text that parity is measured on.

    Attributes:
        windows: Number of windows, spread evenly over the text.
        window_tokens: Tokens per window; fewer if the model's context is shorter.
    """

    windows: int = 8
    window_tokens: int = 256


def bench_engine(
    engine: str,
    artifacts: Sequence[tuple[str, str | None]],
    settings: Settings,
    baseline: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> tuple[EngineResult, ...]:
    """Measure artifacts on one engine, each against its own reference.

    Args:
        engine: Name of the engine.
        artifacts: Pairs of artifact and reference. The artifact is a path, or a model source if the engine opens
            those; the reference is a slmquant folder or a model source. With a reference of None, a GGUF file or a
            checkpoint of packed weights is compared with itself in torch; for other artifacts parity is not measured,
            and a note says so.
        settings: What to time.
        baseline: Index of the full-precision artifact; None if there is none.
        data_dir: A local data folder, searched first.
        progress: Receives progress updates.

    Raises:
        UnknownNameError, SourceError, ModelError, DataError: A reference cannot be loaded, or there is no text. A
            failure of an artifact is not raised but returned as its result.
    """
    progress, places = progress or Silent(), Places(data_dir)
    progress.start("reference", len(artifacts))
    jobs = []
    for label, (artifact, source) in zip(labels([name for name, _ in artifacts]), artifacts, strict=True):
        path = Path(artifact).expanduser()
        if not path.exists() and isinstance(engines.load(engine), TorchEngine):
            path = reference_folder(artifact)
        if source is None:
            jobs.append(_compared_with_itself(EngineJob(label, engine, path), places, settings.timeout_s))
        else:
            windows = fixed_windows(source, TextOptions(), places.data_dir)
            reference = keep_reference(source, windows, places.cache_dir, settings.timeout_s)
            jobs.append(describe(EngineJob(label, engine, path, reference), source))
        progress.advance()
    return run_engines(_with_full(jobs, baseline), settings, baseline, progress)


def labels(artifacts: Sequence[str]) -> list[str]:
    """Labels of artifacts in rows: names without local folders, numbered if two are equal."""
    names = [Path(artifact).name if Path(artifact).is_absolute() else artifact for artifact in artifacts]
    return [name if names.count(name) == 1 else f"{name} ({place + 1})" for place, name in enumerate(names)]


def _with_full(jobs: Sequence[EngineJob], baseline: int | None) -> list[EngineJob]:
    """Jobs whose references name the full-precision reference, if there is one."""
    full = None if baseline is None else jobs[baseline].reference
    if not isinstance(full, Reference):
        return list(jobs)
    return [
        replace(job, reference=replace(job.reference, full=full.folder))
        if isinstance(job.reference, Reference)
        else job
        for job in jobs
    ]


def _compared_with_itself(job: EngineJob, places: Places, timeout_s: float) -> EngineJob:
    """Use the artifact itself, read by torch, as its reference; no reference if torch cannot read it."""
    is_gguf = job.artifact.suffix == ".gguf" and job.artifact.is_file()
    if not is_gguf and checkpoint_of(job.artifact) is None:
        return describe(job, None)
    try:
        source = str(job.artifact)
        windows = fixed_windows(source, TextOptions(), places.data_dir)
        reference = keep_reference(source, windows, places.cache_dir, timeout_s)
    except SlmquantError as error:
        return describe(replace(job, no_reference=str(error)), None)
    if isinstance(reference, Failure):
        return describe(replace(job, no_reference=reference.reason), None)
    return describe(replace(job, reference=reference), source)


def reference_folder(source: str) -> Path:
    """Folder of the model that `source` names: a slmquant folder itself, else a full-precision model.

    Raises:
        UnknownNameError, SourceError, ModelError: As for `model.sources.resolve.resolve`.
    """
    path = Path(source).expanduser()
    return path if is_native(path) else resolve(source)


def fixed_windows(source: str, options: TextOptions, data_dir: Path | None) -> Windows:
    """Windows spread evenly over the calibration text, in the reference's tokens; equal for all engines and schemes.

    Raises:
        DataError: The text is missing or too short.
        UnknownNameError, SourceError, ModelError: As for `reference_folder`.
    """
    folder = reference_folder(source)
    tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder))
    corpus = load_corpus(calibration_corpus(data_dir), data_dir)
    length = fitting(options.window_tokens, _config(folder))
    bos = window_bos(tokenizer)
    head = [] if bos is None else [bos]
    fresh = length - len(head)
    characters = fresh * 16  # tokens are shorter than 16 characters on average, so this suffices
    cut = []
    for place in range(options.windows):
        start = place * len(corpus.text) // options.windows
        ids: list[int] = text_tokens(tokenizer, corpus.text[start : start + characters]).tolist()
        if len(ids) < fresh or len(corpus.text) < options.windows * 2:
            raise DataError(
                f"corpus {corpus.card.name!r} is too short: {len(ids)} tokens from character {start} on, expected "
                f"{fresh} for each of {options.windows} windows; give a longer text"
            )
        cut.append(tuple(head + ids[:fresh]))
    return Windows(tokens=tuple(cut), text=f"{corpus.card.name} ({corpus.card.sha256[:8]})")


def keep_reference(source: str, windows: Windows, cache: Path, timeout_s: float) -> Reference | Failure:
    """Compute the reference's log-probabilities in a separate process, unless they are cached.

    Raises:
        UnknownNameError, SourceError, ModelError: As for `reference_folder`.
    """
    folder = reference_folder(source)
    versions = (__version__, torch.__version__, transformers.__version__)
    key = [FILE_VERSION, _digest(folder), windows.tokens, *versions]
    kept = entry_path(cache, "engine_reference", key)
    if not is_sound(kept):
        threads = usable_cores()
        options = OpenOptions(threads, len(windows.tokens[0]))
        with EngineProcess(threads) as process:
            opened = process.ask(Open(REFERENCE_ENGINE, folder, options), timeout_s)
            if isinstance(opened, Failure):
                return Failure(opened.status, f"reference {source}: {opened.reason}")
            written = process.ask(WriteReference(windows, kept, public_name(source)), timeout_s)
        if isinstance(written, Failure):
            return Failure(written.status, f"reference {source}: {written.reason}")
    return Reference(kept, windows)


def describe(job: EngineJob, reference: str | None) -> EngineJob:
    """`job` with token cost and context limit, read from the reference's or the artifact's config if there is one."""
    folder = reference_folder(reference) if reference is not None else job.artifact
    engine = engines.load(job.engine)
    try:
        config = _config(folder) if (folder / "config.json").is_file() else None
        cost = TokenCost() if config is None else _token_cost(config, job)
        limit = _stated_context(engine, job.artifact) if config is None else context_limit(config)
    except ModelError:  # opening the artifact will report it
        cost, limit = TokenCost(), None
    return replace(
        job,
        cost=cost,
        context_limit=limit,
        no_speed=engine.no_speed if isinstance(engine, WithoutSpeed) else _no_speed(job.artifact),
    )


def _stated_context(engine: Engine, artifact: Path) -> int | None:
    """Context length stated by an artifact without a transformers config; None if it states none.

    Raises:
        ModelError: The artifact is damaged.
    """
    stated = (
        fmt.context_limit(artifact) for fmt in map(formats.load, engine.formats) if isinstance(fmt, StatesContext)
    )
    return next((limit for limit in stated if limit is not None), None)


def _token_cost(config: PreTrainedConfig, job: EngineJob) -> TokenCost:
    """Token cost from the architecture's shapes.

    An embedding is only looked up, so it is neither multiplied nor read, unless it is tied to the head. Torch reads
    weights in its own dtype, whatever the file holds; other engines are assumed to read the bytes of the file.
    """
    with guarded(lambda why: f"{job.artifact} is no language model: {why}"), torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)  # shapes without numbers
    embedding, head = skeleton.get_input_embeddings(), skeleton.get_output_embeddings()
    tied = head is None or embedding.weight is head.weight
    ends = embedding.weight.numel() if head is None else head.weight.numel()
    body = count_parameters(skeleton) - ends - (0 if tied else embedding.weight.numel())
    engine = engines.load(job.engine)
    if isinstance(engine, TorchEngine):
        read = (body + ends) * getattr(torch, engine.dtype).itemsize
    else:
        read = _weight_bytes(job.artifact) if tied else None
    return TokenCost(read_bytes=read, multiplied=body, head=ends)


def _weight_bytes(artifact: Path) -> int | None:
    """Size of an artifact without tokenizer, templates and configuration; None if it does not exist."""
    if not artifact.is_dir():
        return bytes_on_disk(artifact)
    return sum(f.stat().st_size for f in artifact.rglob("*") if f.is_file() and f.suffix not in _TEXTS)


def _no_speed(artifact: Path) -> str | None:
    if not is_native(artifact):
        return None
    scheme = or_none(lambda: parse(json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))["scheme"]))
    return None if scheme is not None and scheme.is_full_precision else NO_SPEED  # opening it will report damage


def _config(folder: Path) -> PreTrainedConfig:
    with guarded(lambda why: f"{folder}/config.json cannot be read: {why}"):
        return cast(PreTrainedConfig, AutoConfig.from_pretrained(folder, trust_remote_code=False))


def _digest(folder: Path) -> str:
    """SHA-256 over all files that the reference is computed from."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()
