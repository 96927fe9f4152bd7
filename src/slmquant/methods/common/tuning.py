"""The last part of a method: tunes continuous parameters of the quantized model; codes stay as they are."""

from __future__ import annotations

from typing import Protocol

from slmquant.methods.common.work import Work
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.schemes.scheme import Scheme
from slmquant.store.record import Budget


class Tuner(Protocol):
    """A tuning that has seen the full-precision model."""

    def tune_(self, quantized: QuantizedModel, work: Work) -> QuantizedModel:
        """Tune a quantized model in place, and return it with its new scales."""
        ...


class Tuning(Protocol):
    """Tunes a quantized model as a whole."""

    def refusal(self, scheme: Scheme) -> str | None:
        """Why it cannot tune a model of this scheme; None if it can."""
        ...

    def windows(self, budget: Budget) -> int:
        """How many windows it needs beside those of calibration."""
        ...

    def begin(self, work: Work) -> Tuner:
        """Take from the full-precision model what is needed; it is rewritten and rounded afterwards."""
        ...
