"""Experiments on one model: what was varied, and the divergence that it caused in every window of text.

A file of experiments is `Experiments` as JSON. It holds measurements only: shares, intervals and verdicts are computed
from it by `slmquant.analysis`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from slmquant.boundary import reading
from slmquant.errors import StoreError
from slmquant.files import atomic_file
from slmquant.store.record import CalibrationSpec, ComputeDtype, Environment

QUESTIONS = {
    "operands": "what weights, activations, cache and embeddings contribute to the divergence",
    "ablation": "what keeping outlier channels or tokens of activations in full precision recovers",
    "doses": "how the divergence responds as outliers of activations are scaled",
}
"""Question → what it asks."""

Operand = Literal["weights", "activations", "cache", "embeddings"]
"""What a scheme may round."""
OPERAND_NAMES: dict[Operand, str] = {
    "weights": "weights of linears",
    "activations": "activations",
    "cache": "KV cache",
    "embeddings": "embedding and head",
}
"""Operand → its name for people."""

Divergence = tuple[tuple[FiniteFloat, ...], ...]
"""Mean KL from full precision of each window of each text, in nats per token."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Sample(_Frozen):
    """The windows of one text."""

    corpus: str
    sha256: str
    """Hash of the text."""
    length: int
    """Tokens of a window."""
    positions: tuple[int, ...]
    """Position of each window in the text, in windows."""


class FactorialCell(_Frozen):
    """One combination of rounded operands."""

    rounded: tuple[Operand, ...]
    divergence: Divergence


class Factorial(_Frozen):
    """Every combination of the operands that a scheme rounds."""

    scheme: str
    operands: tuple[Operand, ...]
    """The operands that the scheme rounds."""
    absent: dict[Operand, str]
    """Operand that the scheme leaves in 16 bits → the reason why it has no cell."""
    cells: tuple[FactorialCell, ...]

    @model_validator(mode="after")
    def _is_complete(self) -> Factorial:
        found = {frozenset(cell.rounded) for cell in self.cells}
        if len(found) != 2 ** len(self.operands) or any(not one <= set(self.operands) for one in found):
            raise ValueError(f"{len(found)} combinations of {len(self.operands)} operands; expected each once")
        return self


Kept = Literal["channels", "tokens", "random channels", "random tokens"]
"""What an ablation keeps in full precision: the largest, or as many at random."""


class AblationCell(_Frozen):
    """Rounded activations, but for some channels or tokens."""

    kept: Kept
    share: float
    """Share of the channels of every input, or of the tokens of every window; at least one is kept."""
    seed: int | None
    """Seed of a random choice."""
    divergence: Divergence


class Ablation(_Frozen):
    """What keeping channels or tokens of activations in full precision recovers, weights being in full precision."""

    scheme: str
    whole: Divergence
    """With all activations rounded."""
    cells: tuple[AblationCell, ...]


Arm = Literal["outliers", "random", "undone", "function"]
"""What a dose-response scales and rounds; see `diagnosis.doses`."""
ALL_SITES = "all"
"""The site that is all sites of the blocks at once."""


class DoseCell(_Frozen):
    """Rounded activations after some channels were scaled."""

    site: str
    """Place in a block: the linears whose input is scaled, or `source → target`."""
    arm: Arm
    dose: float
    """Factor of the channels."""
    seed: int | None
    """Seed of random channels."""
    divergence: Divergence


class DoseResponse(_Frozen):
    """What rounding activations costs as outliers are scaled, the model's function staying the same."""

    scheme: str
    share: float
    """Share of the channels of an input that is scaled."""
    whole: Divergence
    """At dose 1."""
    cells: tuple[DoseCell, ...]


class Experiments(_Frozen):
    """Experiments on one model, all on the same windows."""

    schema_version: Literal[1] = 1
    model: str
    """Model source, without folders."""
    model_sha256: str
    method: str
    """The method that rounded the weights."""
    calibration: CalibrationSpec | None
    """None if the method uses no data."""
    compute_dtype: ComputeDtype
    samples: tuple[Sample, ...]
    environment: Environment
    finished_at: datetime
    factorials: tuple[Factorial, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    doses: tuple[DoseResponse, ...] = ()

    @model_validator(mode="after")
    def _fits_the_samples(self) -> Experiments:
        windows = [len(sample.positions) for sample in self.samples]
        measured = [cell.divergence for factorial in self.factorials for cell in factorial.cells]
        for ablation in self.ablations:
            measured += [ablation.whole, *(cell.divergence for cell in ablation.cells)]
        for response in self.doses:
            measured += [response.whole, *(cell.divergence for cell in response.cells)]
        if any([len(text) for text in divergence] != windows for divergence in measured):
            raise ValueError("a cell has not one divergence for each window")
        return self


def write_experiments(experiments: Experiments, path: Path) -> None:
    """Write a file of experiments.

    Raises:
        OutputError: The file cannot be written.
        SpaceError: The disk is full.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(experiments.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_experiments(path: Path) -> Experiments:
    """Read a file of experiments.

    Raises:
        StoreError: The file cannot be read, or is no file of experiments.
    """
    with reading(path, "a file of experiments", "write one with `slmquant questions -o`", StoreError):
        return Experiments.model_validate_json(path.read_bytes())
