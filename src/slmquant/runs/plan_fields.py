"""Types of a plan's fields, which check names and numbers as they are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from slmquant import engines, methods, tasks
from slmquant.boundary import size_text
from slmquant.bounds import (
    LARGEST_SEED,
    LEAST_MEMORY,
    LONGEST_NAME,
    LONGEST_WINDOW,
    MOST_ITEMS,
    MOST_SAMPLES,
    SHORTEST_WINDOW,
)
from slmquant.calib.corpora import check_corpus
from slmquant.errors import PlanError, SlmquantError
from slmquant.schemes import EXAMPLES, parse
from slmquant.schemes.mixture_file import SUFFIX, kept_scheme
from slmquant.store.record import Budget, CalibrationSpec, TaskSpec

T = TypeVar("T")
U = TypeVar("U")

_SIZE = re.compile(r"\s*\d+(\.\d+)?\s*[kmgt]i?b\s*", re.IGNORECASE)
_WILD = "*?["


def explained(check: Callable[[T], U]) -> Callable[[T], U]:
    """`check` as a validator: pydantic adds the location to slmquant's errors, which keep their text and exit code."""

    def validate(value: T) -> U:
        try:
            return check(value)
        except SlmquantError as error:
            raise wrong(str(error), error.exit_code) from error

    return validate


def wrong(reason: str, exit_code: int = PlanError.exit_code, field: str = "") -> PydanticCustomError:
    """The error of a validator.

    Args:
        reason: The message.
        exit_code: Exit code of a command that the error ends.
        field: Field within the validated value, if one is to blame.
    """
    return PydanticCustomError("slmquant", "{reason}", {"reason": reason, "exit_code": exit_code, "field": field})


def once(values: tuple[T, ...]) -> tuple[T, ...]:
    """`values` without repetitions."""
    return tuple(dict.fromkeys(values))


def _method(name: str) -> str:
    methods.load(name)
    return name.lower()


def scheme_name(name: str, folder: Path) -> str:
    """The canonical name of a scheme, or that of a mixture from a file in a folder.

    Raises:
        SchemeError: The name or the file cannot be read.
        OutputError, SpaceError: The mixture cannot be kept in the cache.
    """
    return str(kept_scheme(folder / name) if is_mixture_file(name) else parse(name))


def is_mixture_file(name: object) -> bool:
    """Whether what stands in the place of a scheme's name is the path of a mixture file."""
    return isinstance(name, str) and name.lower().endswith(SUFFIX)


def _scheme(name: str, info: ValidationInfo) -> str:
    return explained(partial(scheme_name, folder=_folder(info)))(name)


def _folder(info: ValidationInfo) -> Path:
    """The folder that paths in a plan begin in: that of its file."""
    return Path(info.context) if isinstance(info.context, Path) else Path()


def _engine(name: str) -> str:
    engines.load(name)
    return name.lower()


def read_task(value: object) -> object:
    """The fields of a task that is written `name` or `name:limit`; anything else is left as it is."""
    return tasks.parse(value) if isinstance(value, str) else value


def _known_task(spec: TaskSpec) -> TaskSpec:
    if (spec.limit or 1) > MOST_ITEMS or (spec.order_seed or 0) > LARGEST_SEED:
        raise PlanError(f"{str(spec)[:80]} asks for more items than any task has")
    tasks.resolve(spec)
    return spec


def _usable_calibration(calibration: CalibrationSpec) -> CalibrationSpec:
    """Bounds that are not in the record's type, so that older rows stay readable."""
    try:
        check_corpus(calibration.corpus)
    except SlmquantError as error:
        raise wrong(str(error), error.exit_code, "corpus") from error
    for name, value, least, most in (
        ("num_samples", calibration.num_samples, 1, MOST_SAMPLES),
        ("seq_len", calibration.seq_len, SHORTEST_WINDOW, LONGEST_WINDOW),
        ("seed", calibration.seed, 0, LARGEST_SEED),
    ):
        if not least <= value <= most:
            raise wrong(f"expected {least} to {most}", field=name)
    return calibration


def _check_unit(value: object) -> object:
    """Refuse a size without a unit, which would have to be guessed."""
    if not isinstance(value, ByteSize | str) or (isinstance(value, str) and not _SIZE.fullmatch(value)):
        raise wrong("expected a number with a unit, e.g. 6GB or 800MB")
    return value


def _check_enough(size: ByteSize) -> ByteSize:
    """Refuse a memory limit that no cell could keep."""
    if size < LEAST_MEMORY:
        raise wrong(f"expected at least {size_text(LEAST_MEMORY)}, most of which torch itself takes")
    return size


def _suggesting(names: Iterable[str]) -> WithJsonSchema:
    """JSON schema of a text for which editors offer `names`; other texts, such as combinations, are allowed."""
    return WithJsonSchema({"anyOf": [{"enum": list(names)}, {"type": "string"}]})


Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
MemoryLimit = Annotated[
    ByteSize, BeforeValidator(_check_unit), AfterValidator(_check_enough), WithJsonSchema({"type": "string"})
]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Method = Annotated[str, AfterValidator(explained(_method)), _suggesting(methods.names())]
SchemeName = Annotated[str, AfterValidator(_scheme), _suggesting(EXAMPLES)]
EngineName = Annotated[str, AfterValidator(explained(_engine)), _suggesting(engines.names())]
PlannedTask = Annotated[
    TaskSpec,
    BeforeValidator(explained(read_task), json_schema_input_type=str | TaskSpec),
    AfterValidator(explained(_known_task)),
]
Calibration = Annotated[CalibrationSpec, AfterValidator(_usable_calibration)]


class Extra(BaseModel):
    """A cell beside the matrix, for every model of the plan or for some of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Method
    """Name of a method, or a combination `a+b`."""
    scheme: SchemeName
    """Scheme name, or a mixture file beside the plan."""
    models: tuple[Name, ...] = ()
    """The models that get this cell, out of those of the plan; all of them if left out."""
    calibration: Calibration | None = None
    """Fields of the calibration set that differ from the plan's."""
    seed: Seed | None = None
    """Seed of the method's random numbers, if it differs from the plan's."""
    budget: Budget | None = None
    """Learning budget, if it differs from the plan's."""

    def calibration_of(self, plan: CalibrationSpec) -> CalibrationSpec:
        """The calibration set: the plan's, with the fields that this cell gives."""
        if self.calibration is None:
            return plan
        return plan.model_copy(
            update={name: getattr(self.calibration, name) for name in self.calibration.model_fields_set}
        )


def _scheme_pattern(name: str, info: ValidationInfo) -> str:
    """A scheme's name as the plan has it; a pattern is left as it is."""
    return name if _is_wild(name) else _scheme(name, info)


class Pattern(BaseModel):
    """Names of cells to leave out; `*` stands for any text, and a field that is not given for anything."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: Name | None = None
    """Model source, as in the plan."""
    method: Name | None = None
    """Name of a method, or a combination `a+b`."""
    scheme: Annotated[Name, AfterValidator(_scheme_pattern)] | None = None
    """Scheme name, or a mixture file beside the plan."""

    @model_validator(mode="after")
    def _names_something(self) -> Pattern:
        if not self.model_fields_set:
            raise wrong("names nothing; give a model, a method or a scheme")
        if self.method is not None and not _is_wild(self.method):
            try:
                _method(self.method)
            except SlmquantError as error:
                raise wrong(str(error), error.exit_code, "method") from error
        return self

    def matches(self, model: str, method: str, scheme: str) -> bool:
        """Whether it matches a cell of the matrix."""
        return (
            _matches(model, self.model)
            and _matches(method, self.method and self.method.lower())
            and _matches(scheme, self.scheme)
        )


def _is_wild(name: str) -> bool:
    return any(sign in name for sign in _WILD)


def _matches(name: str, pattern: str | None) -> bool:
    return pattern is None or name == pattern or fnmatchcase(name, pattern)
