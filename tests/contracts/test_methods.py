"""Every method on every architecture: it quantizes as promised, or is refused, with the reason that the docs give."""

from pathlib import Path

import pytest

from slmquant import methods
from slmquant.schemes import parse
from slmquant.testing.method_contract import check_method, combinations
from slmquant.testing.refusals import SCHEMES_TRIED
from slmquant.testing.tiny import ARCHITECTURES
from tests.alike_methods import ORIGINALS, VARIANTS
from tests.contracts.builds import TYPICAL

FEW = ("llama", "gpt2", "qwen2_moe")
"""Separate linears, fused and transposed ones, and experts that are no linears: what a variant may trip over."""

PAIRS = [
    *((method, architecture) for method in ORIGINALS for architecture in TYPICAL),
    *((method, architecture) for method in VARIANTS for architecture in FEW),
]

DOCUMENTED = (Path(__file__).parents[2] / "docs/refusals.md").read_text().splitlines()


def is_documented(method: str, scheme: str, architecture: str) -> bool:
    rows = [line for line in DOCUMENTED if line.startswith(f"| {method} | {scheme} |")]
    return any(architecture in row.split("|")[3].replace(" ", "").split(",") for row in rows)


def check(method: str, scheme: str, architecture: str) -> None:
    refused = check_method(method, architecture, scheme).refusal is not None
    known_before = methods.load(method).refusal(parse(scheme)) is not None

    assert refused == (known_before or is_documented(method, scheme, architecture)), "docs/refusals.md is out of date"


@pytest.mark.usefixtures("few_steps", "known_relations")
@pytest.mark.parametrize(("method", "architecture"), PAIRS)
def test_every_method_keeps_its_contract(method: str, architecture: str) -> None:
    check(method, "W8A8", architecture)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES_TRIED)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", combinations())
def test_every_method_keeps_its_contract_on_every_architecture(method: str, architecture: str, scheme: str) -> None:
    check(method, scheme, architecture)
