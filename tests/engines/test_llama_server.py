"""llama.cpp's server is asked for what `slmquant serve` was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmquant.engines import _llama_server
from slmquant.engines._base import OpenOptions
from slmquant.errors import RefusedError


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_llama_server, "find_spec", lambda name: None)
    with pytest.raises(RefusedError, match=r"pip install 'slmquant\[serve\]'"):
        _llama_server.command(Path("model.gguf"), "127.0.0.1", 8080, 2048, 2)


def test_every_option_reaches_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_llama_server, "find_spec", lambda name: name)
    from slmquant.engines.llamacpp import ENGINE

    command = ENGINE.server(Path("model.gguf"), "0.0.0.0", 8123, OpenOptions(threads=3, context=512))
    assert command[1:4] == ("-m", "slmquant.engines._llama_server", "model.gguf")
    assert dict(zip(command[4::2], command[5::2], strict=True)) == {
        "--host": "0.0.0.0", "--port": "8123", "--context": "512", "--threads": "3",
    }  # fmt: skip
