"""What could be tried for a question: methods × schemes that a format may hold, and types chosen by bytes."""

from __future__ import annotations

from typing import NamedTuple

from slmquant.recommendation.evidence import Evidence, Observed

CHOOSING = "slmq"
"""The method whose types are chosen for a number of bytes."""

_SCHEMES = {
    "gguf": ("Q8_0E8", "Q6_KE6", "Q5_K_M", "Q5_0E8", "Q4_K_M", "Q4_0_M", "IQ4_NLE8", "Q4_0E8", "IQ4_NLE4"),
    "native": ("W8A16g64E8", "W4A16g32E8", "W4A16g64E8", "W4A16g64", "W3A16g64E8"),
}
"""Format → schemes, most bytes first."""
_OTHER_SCHEMES = ("W8A16g32E8", "W4A16g32E8", "W4A16g32")
"""Schemes of formats that are not listed."""
LADDER = ("rtn", "gptq_mse")
"""Methods that are tried first, each once: plain rounding takes seconds, and rounding one weight at a time a minute."""
_METHODS = (*LADDER, "gptq_mse+scale_tuning")
"""The last tunes scales end to end, which takes minutes."""


class Proposal(NamedTuple):
    """A candidate that could be made.

    Attributes:
        method: The method.
        scheme: The scheme; None if types are to be chosen for `chosen_for`.
        chosen_for: Most bytes of the file that types are chosen for.
    """

    method: str
    scheme: str | None
    chosen_for: int | None = None

    @property
    def label(self) -> str:
        """`method/scheme`."""
        return f"{self.method}/{self.scheme or f'types for {self.chosen_for} bytes'}"

    def is_measured(self, evidence: Evidence) -> bool:
        """Whether a record tells its divergence, or why it will never have one."""
        one = self.observed(evidence)
        return one is not None and (bool(one.windows) or (one.problem is not None and not one.again))

    def observed(self, evidence: Evidence) -> Observed | None:
        """What is known of it; None if nothing is."""
        for one in evidence.candidates:
            made = one.candidate
            if made.method == self.method and (
                made.scheme == self.scheme if self.scheme is not None else made.chosen_for == self.chosen_for
            ):
                return one
        return None


def proposals(format_name: str, max_bytes: int | None) -> list[Proposal]:
    """The candidates to try for files of a format, types chosen for `max_bytes` first."""
    schemes = _SCHEMES.get(format_name, _OTHER_SCHEMES)
    chosen = [Proposal(CHOOSING, None, max_bytes)] if format_name == "gguf" and max_bytes is not None else []
    return chosen + [Proposal(method, scheme) for scheme in schemes for method in _METHODS]


def schemes_of(format_name: str) -> tuple[str, ...]:
    """The schemes of all proposals for a format."""
    return _SCHEMES.get(format_name, _OTHER_SCHEMES)
