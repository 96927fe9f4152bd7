"""Plans of the laboratory: a base, factors, blocks, and how to quantize; checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from slmquant.calib.corpora import check_corpus
from slmquant.errors import UnknownNameError
from slmquant.lab.arms import Arm
from slmquant.lab.factors import ANOTHER_START, BASE, FACTORS, PLACEBO
from slmquant.lab.settings import Settings
from slmquant.runs.plan import SCHEMA_DIALECT, Plan
from slmquant.runs.plan_fields import (
    Calibration,
    Method,
    Name,
    PlannedTask,
    SchemeName,
    Seed,
    explained,
    once,
    wrong,
)
from slmquant.store.record import CalibrationSpec

MOST_BLOCKS = 16
"""Most seeds: an exact test goes through all 2^n signs."""


def _corpus(name: str) -> str:
    check_corpus(name)
    return name


Corpus = Annotated[Name, AfterValidator(explained(_corpus))]


class Factor(BaseModel):
    """The levels of one factor; the base is the level that they are compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    levels: dict[str, dict[str, object]] = Field(min_length=1)
    """Name of a level → the settings that it changes in the base."""
    parameters: Literal["equal", "vary"] = "equal"
    """Whether levels must have as many parameters as the base, within 2 %; a level may state `intermediate` for it."""

    @field_validator("levels")
    @classmethod
    def _plain_names(cls, levels: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
        for name in levels:
            if not name.replace("_", "").isalnum() or not name.isascii():
                raise wrong(f"level {name!r} has signs other than letters, digits and _, which its models' names need")
        return levels


class LabPlan(BaseModel):
    """Matched models: the base and every level of every factor, once for each seed.

    Models of a seed see the same text in the same order and begin with the same weights as far as their shapes agree.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base: Settings = Settings()
    """The model that every other one differs from in one factor."""
    factors: dict[str, Factor] = Field(min_length=1)
    """Name of a factor → its levels. A placebo, other initial weights, is added."""
    seeds: Annotated[tuple[Seed, ...], AfterValidator(once)] = Field(min_length=2, max_length=MOST_BLOCKS)
    """A block of models for each; they decide text order and initial weights."""
    train: Annotated[tuple[Corpus, ...], AfterValidator(once)] = Field(min_length=1)
    """Corpora to train on, tokenizer included."""
    tasks: Annotated[tuple[PlannedTask, ...], AfterValidator(once)] = Field(min_length=1)
    """Texts to judge on, written `name` or `name:windows`; none of what is trained on."""
    methods: Annotated[tuple[Method, ...], AfterValidator(once)] = Field(min_length=1)
    """Methods to quantize every model with."""
    schemes: Annotated[tuple[SchemeName, ...], AfterValidator(once)] = Field(min_length=1)
    """Schemes to quantize every model in."""
    calibration: Calibration = CalibrationSpec()
    """Calibration set of methods that need one; none of the texts to judge on."""
    device: Name = "cpu"
    """Device to train and measure on: `cpu`, `cuda`, ..."""

    @field_validator("factors")
    @classmethod
    def _known_factors(cls, factors: dict[str, Factor]) -> dict[str, Factor]:
        for name in factors:
            if name not in FACTORS:
                raise wrong(str(UnknownNameError("factor", name, FACTORS)), UnknownNameError.exit_code)
        return factors

    def arms(self) -> list[Arm]:
        """All models, block by block; in each the base comes first, then the placebo."""
        return [arm for seed in self.seeds for arm in self._block(seed)]

    def _block(self, seed: int) -> Iterator[Arm]:
        yield Arm(BASE, BASE, seed, self.base)
        other = self.base.model_copy(update={"start": self.base.start + 1})
        yield Arm(PLACEBO, ANOTHER_START, seed, other)
        for name, factor in self.factors.items():
            for level, changes in factor.levels.items():
                yield Arm(name, level, seed, changed(self.base, changes))

    def cells(self, models: tuple[str, ...]) -> Plan:
        """The plan that quantizes and measures trained models.

        Args:
            models: Their names.
        """
        return Plan(
            models=models,
            methods=self.methods,
            schemes=self.schemes,
            tasks=self.tasks,
            calibration=self.calibration,
            dtype="float32",
            device=self.device,
        )


def changed(base: Settings, changes: Mapping[str, object]) -> Settings:
    """The base with the changes of a level.

    Raises:
        ValidationError: A setting is unknown or wrong.
    """
    return Settings.model_validate({**base.model_dump(), **changes})


def schema() -> dict[str, object]:
    """The JSON schema of plan files, for editors."""
    return {"$schema": SCHEMA_DIALECT, **LabPlan.model_json_schema()}
