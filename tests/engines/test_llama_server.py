"""llama.cpp's server is asked for what `slmquant serve` was asked for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from slmquant.engines.common import llama_server
from slmquant.engines.common.contract import OpenOptions
from slmquant.errors import UnavailableError
from slmquant.formats.gguf.writer import Gguf
from tests.formats.gguf_models import export, quantized


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'slmquant\[serve\]'"):
        llama_server.command(Path("model.gguf"), "127.0.0.1", 8080, 2048, 2)


def test_every_option_reaches_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "find_spec", lambda name: name)
    from slmquant.engines.llamacpp import ENGINE

    command = ENGINE.server(Path("model.gguf"), "0.0.0.0", 8123, OpenOptions(threads=3, context=512))
    assert command[1:4] == ("-m", "slmquant.engines.common.llama_server", "model.gguf")
    assert dict(zip(command[4::2], command[5::2], strict=True)) == {
        "--host": "0.0.0.0", "--port": "8123", "--context": "512", "--threads": "3",
    }  # fmt: skip


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts a server with such an environment; its address."""
    pytest.importorskip("xllamacpp", reason="the server is not installed; pip install 'slmquant[serve]'")
    Gguf("F32").write(export(quantized("llama")), tmp_path / "model.gguf")
    with contextlib.ExitStack() as stack:

        def start(**surroundings: str) -> str:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            command = (sys.executable, *llama_server.command(tmp_path / "model.gguf", "127.0.0.1", port, 64, 1))
            server = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env={**os.environ, **surroundings},
                )
            )
            stack.callback(server.terminate)
            assert server.stdout is not None
            assert any(line.startswith("listening on") for line in server.stdout)
            return f"http://127.0.0.1:{port}/v1/completions"

        yield start


def ask(url: str, **headers: str) -> HTTPResponse:
    body = json.dumps({"prompt": "ab", "max_tokens": 4, "temperature": 0}).encode()
    asked = Request(url, body, {"Content-Type": "application/json", **headers})  # our own server
    answer: HTTPResponse = urlopen(asked, timeout=30)
    return answer


@pytest.mark.engine
def test_the_server_answers_over_http(serving: Callable[..., str]) -> None:
    with ask(serving()) as answer:
        said = json.load(answer)

    assert said["usage"]["completion_tokens"] in range(1, 5)


@pytest.mark.engine
def test_the_server_lets_no_other_page_read_and_asks_for_its_key(serving: Callable[..., str]) -> None:
    url = serving(SLMQUANT_API_KEY="secret")
    with ask(url, Authorization="Bearer secret", Origin="http://elsewhere.example") as answer:
        allowed = answer.headers["Access-Control-Allow-Origin"]
    with pytest.raises(HTTPError, match="401"):
        ask(url)

    assert allowed not in ("*", "http://elsewhere.example")
