"""Plans: the cells to run and their conditions, as YAML or command-line options, checked before running."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from slmquant import engines, methods, tasks
from slmquant.boundary import guarded
from slmquant.bounds import (
    LARGEST_SEED,
    LONGEST_NAME,
    LONGEST_S,
    LONGEST_WINDOW,
    MOST_ITEMS,
    MOST_ROUNDS,
    MOST_SAMPLES,
    SHORTEST_WINDOW,
)
from slmquant.calib.corpora import check_corpus
from slmquant.errors import PlanError
from slmquant.runs.inputs import Contents
from slmquant.schemes import Scheme, parse
from slmquant.store.record import Budget, CalibrationSpec, CellSpec, ComputeDtype, TaskSpec

Dtype = Literal["auto", "float32", "bfloat16", "bfloat16_all"]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]

_LARGEST_FILE, _DEEPEST, _MOST_ALIASES = 1 << 18, 16, 100
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 2, 70, 70, 40


def as_task(value: object) -> TaskSpec:
    """Read a task as plans write it: `name`, `name:limit`, or its fields.

    Raises:
        PlanError: `value` is none of these.
    """
    read = _read_task(value)
    try:
        return TaskSpec.model_validate(read)
    except ValidationError as error:
        raise PlanError(f"plan field 'tasks': {error.errors()[0]['msg']} (got {_short(value)})") from error


def _read_task(value: object) -> object:
    return tasks.parse(value) if isinstance(value, str) else value


class Plan(BaseModel):
    """Models × methods × schemes under identical conditions; the full-precision reference comes with each model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Name, ...] = Field(min_length=1)
    """Model sources: known names, hub ids, folders, GGUF files."""
    methods: tuple[str, ...] = Field(min_length=1)
    """Names of methods, or combinations `a+b`."""
    schemes: tuple[str, ...] = Field(min_length=1)
    """Scheme names."""
    tasks: tuple[Annotated[TaskSpec, BeforeValidator(_read_task)], ...] = Field(min_length=1)
    """Tasks, written `name` or `name:limit`."""
    calibration: CalibrationSpec = CalibrationSpec()
    """Calibration set of every method that needs one."""
    dtype: Dtype = "auto"
    """Compute dtype of evaluation; `auto` measures speed and error of each on the model and decides."""
    device: Name = "cpu"
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    budget: Budget = "fast"
    """Learning budget of methods that learn: `fast` suits two cores, `paper` is the authors' setting."""
    timeout_s: float | None = Field(default=None, gt=0, le=LONGEST_S)
    """Time limit in seconds of a cell, or of a round if cells stop early; on an engine, of a step (default 300)."""
    until_separated: float | None = Field(default=None, gt=0.5, lt=1)
    """Evaluate items only until a model's cells are told apart with this confidence; None evaluates all items."""
    engines: tuple[str, ...] = ()
    """Engines to export every cell for and measure it on, side by side with full precision."""
    engine_rounds: int = Field(default=10, ge=1, le=MOST_ROUNDS)
    """Number of timed passes of each kind on an engine."""

    @field_validator("methods")
    @classmethod
    def _methods_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            methods.load(name)
        return tuple(dict.fromkeys(name.lower() for name in names))

    @field_validator("models")
    @classmethod
    def _models_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    @field_validator("engines")
    @classmethod
    def _engines_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            engines.load(name)
        return tuple(dict.fromkeys(name.lower() for name in names))

    @field_validator("calibration")
    @classmethod
    def _corpus_exists(cls, calibration: CalibrationSpec) -> CalibrationSpec:
        check_corpus(calibration.corpus)
        for name, value, least, most in (  # not in the record's type, so that older rows stay readable
            ("num_samples", calibration.num_samples, 1, MOST_SAMPLES),
            ("seq_len", calibration.seq_len, SHORTEST_WINDOW, LONGEST_WINDOW),
            ("seed", calibration.seed, 0, LARGEST_SEED),
        ):
            if not least <= value <= most:
                raise PlanError(f"plan field 'calibration.{name}' is {_short(value)}; expected {least} to {most}")
        return calibration

    @field_validator("schemes")
    @classmethod
    def _schemes_parse(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(parse(name)) for name in names))

    @field_validator("tasks")
    @classmethod
    def _tasks_exist(cls, specs: tuple[TaskSpec, ...]) -> tuple[TaskSpec, ...]:
        for spec in specs:
            if (spec.limit or 1) > MOST_ITEMS or (spec.order_seed or 0) > LARGEST_SEED:
                raise PlanError(f"plan field 'tasks': {_short(str(spec))} asks for more items than any task has")
            tasks.resolve(spec)
        return tuple(dict.fromkeys(specs))

    @property
    def asked(self) -> tuple[TaskSpec, ...]:
        """The tasks, stopping early where the plan says so."""
        if self.until_separated is None:
            return self.tasks
        early = {"order_seed": self.seed, "until_separated": self.until_separated}
        return tuple(spec.model_copy(update=early) if tasks.has_items(spec) else spec for spec in self.tasks)

    def cells(self, model: str, sha256: str, dtype: ComputeDtype, contents: Contents | None = None) -> list[CellSpec]:
        """All cells of a model, in the order in which they run: the reference, then scheme by scheme.

        Args:
            model: Its source.
            sha256: Fingerprint of its weights.
            dtype: Dtype to compute in.
            contents: Hashes of everything else that the cells read; None if they will not be run.
        """
        pairs = [(method, scheme) for scheme in self.schemes for method in self.methods]
        reference, *quantized = (
            self._cell(model, sha256, dtype, contents, *pair) for pair in [(methods.REFERENCE, str(Scheme())), *pairs]
        )
        return [reference, *(cell for cell in quantized if cell != reference)]

    def _cell(
        self,
        model: str,
        sha256: str,
        dtype: ComputeDtype,
        contents: Contents | None,
        method: str,
        scheme: str,
    ) -> CellSpec:
        recipe, numbers = methods.load(method), parse(scheme)
        looks_at_data = recipe.refusal(numbers) is None and recipe.looks_at_data(numbers)
        return CellSpec(
            model=model,
            model_sha256=sha256,
            method=method,
            scheme=scheme,
            calibration=self.calibration if looks_at_data else None,
            tasks=self.asked,
            compute_dtype=dtype,
            device=self.device,
            seed=self.seed,
            budget=self.budget if recipe.learns else None,
            inputs=None if contents is None else contents.inputs(method, self.asked, looks_at_data),
        )


def read_plan_fields(path: Path) -> dict[str, object]:
    """Read the fields of a plan from a YAML (or JSON) file; `make_plan` checks them.

    Raises:
        PlanError: The file is missing, not YAML, too large, nested too deeply, or holds no fields.
    """
    with guarded(lambda why: f"cannot read plan {path}: {why}", PlanError):
        size = path.stat().st_size
        content_bytes = path.read_bytes() if size <= _LARGEST_FILE else b""
    if size > _LARGEST_FILE:
        raise PlanError(f"plan {path} is too large: {size} bytes; expected at most {_LARGEST_FILE}")
    with guarded(lambda why: f"plan {path} is not UTF-8 text: {why}", PlanError):
        text = content_bytes.decode("utf-8")
    with guarded(lambda why: f"plan {path} is not YAML: {why}", PlanError):
        _check_simple(path, text)
        content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise PlanError(f"plan {path} holds a {type(content).__name__}; expected fields such as models, methods, tasks")
    return content


def _check_simple(path: Path, text: str) -> None:
    """Refuse deep nesting and many aliases, which no plan needs and which could expand without bound."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > _DEEPEST or aliases > _MOST_ALIASES:
            raise PlanError(
                f"plan {path} is nested deeper than {_DEEPEST} levels or repeats parts more than {_MOST_ALIASES} "
                "times; write it out"
            )


def _short(value: object) -> str:
    """The beginning of a value's representation; the rest is never computed."""
    return _BRIEF.repr(value)[:80]


def make_plan(fields: Mapping[str, object]) -> Plan:
    """Make a plan from its fields.

    Raises:
        PlanError: A field is missing, unknown or wrong; the message names it.
        UnknownNameError: A method, a task or a corpus is not known.
        RefusedError: Methods joined by `+` cannot be combined.
        SchemeError: A scheme cannot be read.
    """
    try:
        return Plan.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        got = _short(first["input"])
        what = "write a list, e.g. [name]" if first["type"] == "tuple_type" else first["msg"]
        raise PlanError(f"plan field {where!r}: {what} (got {got})") from error
