"""Every format keeps its contract on a model that fits it, and on one that does not; third-party formats, too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slmquant import formats
from slmquant.artifact import Artifact
from slmquant.errors import UnavailableError
from slmquant.formats.common.contract import Placement, Written, check_installed
from slmquant.testing.contract import ContractError
from slmquant.testing.format_contract import check_format
from tests.formats.checkpoints import EVEN, rounded
from tests.formats.gguf_models import tokenizer

SCHEMES = ("W16A16", "W4A16g32", "W4A16g32-asym", "W8A16g32", "W4A16g32E8")
HELD = {"W16A16", "W4A16g32"}
"""Schemes that every format of ours holds, of models whose sides are multiples of 32."""


def every_format() -> list[object]:
    """A format that needs a package beyond slmquant's own is a matter of the engine tier."""
    return [
        pytest.param(name, marks=[pytest.mark.engine] if formats.load(name).extra is not None else [])
        for name in formats.names()
    ]


def artifact(scheme: str, **settings: Any) -> Artifact:
    method = "none" if scheme == "W16A16" else "rtn"
    return Artifact(rounded(scheme, method=method, **settings), tokenizer(), "tiny", "0" * 64)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", every_format())
def test_every_format_keeps_its_contract(tmp_path: Path, name: str, scheme: str) -> None:
    try:
        check_installed(name, formats.load(name).extra)
    except UnavailableError as error:
        pytest.skip(str(error))

    outcome = check_format(name, artifact(scheme, **EVEN), tmp_path)

    assert outcome.refusal is None or scheme not in HELD, outcome.refusal


@pytest.mark.parametrize("name", every_format())
def test_every_format_keeps_its_contract_on_awkward_sides(tmp_path: Path, name: str) -> None:
    """Sides of 20 and 40: rows that blocks of 32 do not divide."""
    try:
        check_installed(name, formats.load(name).extra)
    except UnavailableError as error:
        pytest.skip(str(error))

    outcome = check_format(name, artifact("W4A16g32-asym", hidden_size=40, intermediate_size=72), tmp_path)

    assert outcome.refusal is None or len(outcome.refusal) > 20


class Careless:
    """A format that stores floats, claims codes, and never looks at what it reads."""

    title, summary, suffix, extra = "careless", "a format that breaks its promises", ".pt", None

    def refusal(self, quantized: object) -> None:
        return None

    def place(self, quantized: object, otherwise: str | None = None) -> tuple[Placement, ...]:
        return tuple(
            Placement(name, "INT4", "float", parameter.numel(), 2 * parameter.numel(), exact=True)
            for name, parameter in (
                (name.removesuffix(".weight"), parameter)
                for name, parameter in quantized.model.named_parameters()  # type: ignore[attr-defined]
            )
        )

    def write(self, made: Artifact, path: Path, otherwise: str | None = None) -> Written:
        halved = {name: weight.dequantize() / 2 for name, weight in made.quantized.weights.items()}
        torch.save(halved, path)
        return Written(path, "careless", path.stat().st_size, self.place(made.quantized))

    def read(self, path: Path) -> dict[str, Tensor]:
        return torch.load(path)  # type: ignore[no-any-return]


def test_a_format_that_stores_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "load", lambda _: Careless())

    with pytest.raises(ContractError, match=r"careless with W4A16g32: .* is stored exactly; it differs"):
        check_format("careless", artifact("W4A16g32", **EVEN), tmp_path)
