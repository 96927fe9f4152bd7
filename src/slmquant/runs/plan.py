"""Plans: the cells to run and their conditions, as YAML or command-line options, checked before running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from slmquant import methods, tasks
from slmquant.bounds import LONGEST_S, MOST_ROUNDS
from slmquant.runs.inputs import Contents
from slmquant.runs.plan_errors import plan_error
from slmquant.runs.plan_fields import (
    Calibration,
    EngineName,
    Extra,
    MemoryLimit,
    Method,
    Name,
    Pattern,
    PlannedTask,
    SchemeName,
    Seed,
    once,
    wrong,
)
from slmquant.runs.plan_file import PlanFile
from slmquant.runs.precision import Dtype
from slmquant.schemes import Scheme, parse
from slmquant.store.record import Budget, CalibrationSpec, CellSpec, ComputeDtype, TaskSpec

SCHEMA_DIALECT = "http://json-schema.org/draft-07/schema#"
"""The version of JSON schema that editors read."""


@dataclass(frozen=True)
class _Cell:
    """What sets one cell of a plan apart from the others."""

    method: str
    scheme: str
    calibration: CalibrationSpec
    seed: int
    budget: Budget


class Plan(BaseModel):
    """Models × methods × schemes under identical conditions; the full-precision reference comes with each model.

    `seeds` and `budgets` multiply the matrix, `exclude` leaves cells of it out, `include` adds others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    models: Annotated[tuple[Name, ...], AfterValidator(once)] = Field(min_length=1)
    """Model sources: known names, hub ids, folders, GGUF files."""
    methods: Annotated[tuple[Method, ...], AfterValidator(once)] = ()
    """Names of methods, or combinations `a+b`; may be left out if `include` names cells."""
    schemes: Annotated[tuple[SchemeName, ...], AfterValidator(once)] = ()
    """Scheme names, or mixture files (`mix.json`) beside the plan; may be left out if `include` names cells."""
    exclude: tuple[Pattern, ...] = ()
    """Cells of the matrix to leave out; a model of which no cell is left is left out itself."""
    include: tuple[Extra, ...] = ()
    """Cells beside the matrix."""
    tasks: Annotated[tuple[PlannedTask, ...], AfterValidator(once)] = Field(min_length=1)
    """Tasks, written `name` or `name:limit`."""
    calibration: Calibration = CalibrationSpec()
    """Calibration set of every method that needs one."""
    seeds: Annotated[tuple[Seed, ...], AfterValidator(once)] = ()
    """Seeds of several draws of calibration windows; every cell that uses data is measured for each of them."""
    dtype: Dtype = "auto"
    """Compute dtype of evaluation; `auto` measures speed and error of each on the model and decides."""
    device: Name = "cpu"
    """Device: `cpu`, `cuda`, ..."""
    seed: Seed = 0
    """Seed of the methods' random numbers, and of the order of items that stop early."""
    budget: Budget = "fast"
    """Learning budget of methods that learn: `fast` suits two cores, `paper` is the authors' setting."""
    budgets: Annotated[tuple[Budget, ...], AfterValidator(once)] = ()
    """Several learning budgets; every cell that learns is measured for each of them."""
    timeout_s: float | None = Field(default=None, gt=0, le=LONGEST_S)
    """Time limit in seconds of a cell, or of a round if cells stop early; on an engine, of a step (default 300)."""
    memory_limit: MemoryLimit | None = None
    """Limit of the memory of a cell's processes, or of an engine's, with its unit: `6GB`."""
    until_separated: float | None = Field(default=None, gt=0.5, lt=1)
    """Evaluate items only until a model's cells are told apart with this confidence; None evaluates all items."""
    engines: Annotated[tuple[EngineName, ...], AfterValidator(once)] = ()
    """Engines to export every cell for and measure it on, side by side with full precision."""
    engine_rounds: int = Field(default=10, ge=1, le=MOST_ROUNDS)
    """Number of timed passes of each kind on an engine."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Plan:
        given = self.model_fields_set
        for field in ("methods", "schemes"):
            if not getattr(self, field) and not self.include:
                raise wrong("names nothing; write at least one, or cells in 'include'", field=field)
        if bool(self.methods) != bool(self.schemes):
            raise wrong("methods and schemes make the matrix together; give both, or neither", field="schemes")
        if self.budgets and "budget" in given:
            raise wrong("both budget and budgets are given; delete one of them", field="budgets")
        if self.seeds and "seed" in self.calibration.model_fields_set:
            raise wrong("both seeds and calibration.seed are given; delete one of them", field="seeds")
        return self

    @property
    def asked(self) -> tuple[TaskSpec, ...]:
        """The tasks, stopping early where the plan says so."""
        if self.until_separated is None:
            return self.tasks
        early = {"order_seed": self.seed, "until_separated": self.until_separated}
        return tuple(spec.model_copy(update=early) if tasks.has_items(spec) else spec for spec in self.tasks)

    @property
    def corpora(self) -> tuple[str, ...]:
        """The calibration texts of all cells."""
        extra = (cell.calibration_of(self.calibration).corpus for cell in self.include)
        return once((self.calibration.corpus, *extra))

    def cells(self, model: str, sha256: str, dtype: ComputeDtype, contents: Contents | None = None) -> list[CellSpec]:
        """All cells of a model, in the order in which they run: the reference, the matrix, then `include`.

        The matrix runs seed by seed, budget by budget, scheme by scheme.

        Args:
            model: Its source.
            sha256: Fingerprint of its weights.
            dtype: Dtype to compute in.
            contents: Hashes of everything else that the cells read; None if they will not be run.

        Returns:
            The cells, each once; none if `exclude` leaves none.
        """
        wanted = list(self._wanted(model))
        if not wanted:
            return []
        reference = _Cell(methods.REFERENCE, str(Scheme()), self.calibration, self.seed, self.budget)
        return list(once(tuple(self._spec(model, sha256, dtype, contents, one) for one in (reference, *wanted))))

    def unused(self) -> list[str]:
        """The parts of `exclude` and `include` that match no cell."""
        matrix = [(scheme, method) for scheme in self.schemes for method in self.methods]
        patterns = [
            f"exclude[{index}]"
            for index, pattern in enumerate(self.exclude)
            if not any(pattern.matches(model, method, scheme) for model in self.models for scheme, method in matrix)
        ]
        return patterns + [
            f"include[{index}]"
            for index, extra in enumerate(self.include)
            if extra.models and not set(extra.models) & set(self.models)
        ]

    def _wanted(self, model: str) -> Iterator[_Cell]:
        draws = [self.calibration.model_copy(update={"seed": seed}) for seed in self.seeds] or [self.calibration]
        for calibration in draws:
            for budget in self.budgets or (self.budget,):
                for scheme in self.schemes:
                    for method in self.methods:
                        if not any(pattern.matches(model, method, scheme) for pattern in self.exclude):
                            yield _Cell(method, scheme, calibration, self.seed, budget)
        for extra in self.include:
            if not extra.models or model in extra.models:
                yield _Cell(
                    extra.method,
                    extra.scheme,
                    extra.calibration_of(draws[0]),
                    self.seed if extra.seed is None else extra.seed,
                    extra.budget or (self.budgets or (self.budget,))[0],
                )

    def _spec(self, model: str, sha256: str, dtype: ComputeDtype, contents: Contents | None, cell: _Cell) -> CellSpec:
        recipe, numbers = methods.load(cell.method), parse(cell.scheme)
        looks_at_data = recipe.refusal(numbers) is None and recipe.looks_at_data(numbers)
        corpus = cell.calibration.corpus if looks_at_data else None
        return CellSpec(
            model=model,
            model_sha256=sha256,
            method=cell.method,
            scheme=cell.scheme,
            calibration=cell.calibration if looks_at_data else None,
            tasks=self.asked,
            compute_dtype=dtype,
            device=self.device,
            seed=cell.seed,
            budget=cell.budget if recipe.learns else None,
            inputs=None if contents is None else contents.inputs(cell.method, cell.scheme, self.asked, corpus),
        )


def schema() -> dict[str, object]:
    """The JSON schema of plan files, for editors; it offers the names of this machine's plug-ins, too.

    No field is required, as options may give it.
    """
    fields = {name: value for name, value in Plan.model_json_schema().items() if name != "required"}
    return {"$schema": SCHEMA_DIALECT, **fields}


def make_plan(fields: Mapping[str, object], file: PlanFile | None = None) -> Plan:
    """Make a plan from its fields.

    Args:
        fields: The fields.
        file: The file that they come from, whose lines errors name and in whose folder paths begin; None if they come
            from elsewhere.

    Raises:
        PlanError: Fields are missing, unknown or wrong, or name what does not exist; the message tells each.
    """
    try:
        return Plan.model_validate(fields, context=None if file is None else file.path.parent)
    except ValidationError as error:
        raise plan_error(error, Plan, file) from error
