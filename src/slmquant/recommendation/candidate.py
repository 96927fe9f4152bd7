"""A candidate: a way to quantize a model, and the command that does it."""

from __future__ import annotations

import shlex
from pathlib import PurePath

from pydantic import BaseModel, ConfigDict

from slmquant.store.record import REFERENCE, REFERENCE_SCHEME, Budget, CalibrationSpec, CellSpec


def output_name(model: str, format_name: str) -> str:
    """A name for the file or folder that is made of a model."""
    name = PurePath(model).name
    return f"{name.removesuffix('.gguf')}-quantized{'.gguf' if format_name == 'gguf' else ''}"


class Candidate(BaseModel):
    """A way to quantize a model."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: str
    scheme: str
    """The scheme's name."""
    calibration: CalibrationSpec | None = None
    """The calibration set; None if the method uses no data."""
    seed: int = 0
    """Seed of the method."""
    budget: Budget | None = None
    """Learning budget; None if the method does not learn."""
    chosen_for: int | None = None
    """Bytes that the types of a mixture were chosen for; None for a scheme that its name tells."""

    @classmethod
    def of(cls, spec: CellSpec, chosen_for: int | None = None) -> Candidate:
        """The candidate that a cell measures."""
        return cls(
            method=spec.method,
            scheme=spec.scheme,
            calibration=spec.calibration,
            seed=spec.seed,
            budget=spec.budget,
            chosen_for=chosen_for,
        )

    @property
    def is_reference(self) -> bool:
        """Whether it is full precision."""
        return self.method == REFERENCE and self.scheme == REFERENCE_SCHEME

    @property
    def label(self) -> str:
        """`method/scheme`."""
        return f"{self.method}/{self.scheme}"

    @property
    def draw(self) -> tuple[int, int]:
        """The seeds of its calibration and its method."""
        return (self.calibration.seed if self.calibration is not None else 0), self.seed

    def command(self, model: str, format_name: str, output: str) -> str:
        """The command that makes it."""
        words = ["slmquant", "quantize", model, "--method", self.method]
        words += ["--scheme", self.scheme] if self.chosen_for is None else ["--max-bytes", str(self.chosen_for)]
        words += ["--format", format_name] if format_name != "native" else []
        if self.calibration is not None:
            drawn = self.calibration
            words += ["--corpus", drawn.corpus]
            words += ["--samples", str(drawn.num_samples), "--seq-len", str(drawn.seq_len), "--seed", str(drawn.seed)]
        words += ["--budget", self.budget] if self.budget == "paper" else []
        return shlex.join([*words, "-o", output])
