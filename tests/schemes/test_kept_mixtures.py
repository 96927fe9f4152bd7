"""A mixture whose types were chosen on this machine is read by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmquant.errors import SchemeError
from slmquant.schemes import Scheme, parse
from slmquant.schemes.kept_mixtures import KIND, keep_mixture

TYPES = {"model.embed_tokens": "Q8_0", "model.layers.0.self_attn.q_proj": "Q4_0", "lm_head": "W16A16"}


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path))
    scheme = Scheme.of_table({weight: parse(kind).weights for weight, kind in TYPES.items()})
    keep_mixture(str(scheme), "tiny", TYPES)
    return str(scheme)


def test_its_name_reads_as_the_mixture(name: str) -> None:
    scheme = parse(name)

    assert scheme.listed == TYPES
    assert str(scheme) == name


def test_a_mixture_of_another_machine_asks_for_its_file(name: str, tmp_path: Path) -> None:
    content = tmp_path / KIND / name / "content.json"
    content.write_text("{}", encoding="utf-8")  # damaged, and so removed

    for unknown in (name, "mix-0123456789ab"):
        with pytest.raises(SchemeError, match="give the file: --mixture FILE"):
            parse(unknown)
