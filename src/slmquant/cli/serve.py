"""`slmquant serve`: an artifact behind the server that its engine brings."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from slmquant.bounds import MOST_THREADS, MOST_TOKENS
from slmquant.cli._output import QuietOption, tell

API_KEY = "SLMQUANT_API_KEY"
"""As `engines.common.serving` has it, which is not imported before it is needed."""


def command(
    artifact: Annotated[Path, typer.Argument(help="A file or folder that `slmquant export` wrote.")],
    engine: Annotated[str, typer.Option("--engine", "-e", help="Whose server.")] = "llamacpp",
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in, which should need --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 8080,
    context: Annotated[int, typer.Option(min=8, max=MOST_TOKENS, help="Tokens that one conversation may hold.")] = 2048,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="Threads that compute.", show_default="all cores")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=API_KEY, help="What a request must carry (`Authorization: Bearer KEY`).", show_default="none"
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Start the engine's own OpenAI-compatible server; Ctrl-C ends it.

    By default it listens to this machine alone, and whoever is on it may ask. Give a key in SLMQUANT_API_KEY rather
    than on the command line, where other users of the machine can read it.

    Examples:
        slmquant serve model.gguf
    """
    from slmquant import engines
    from slmquant.engines.common.contract import OpenOptions
    from slmquant.engines.common.serving import Serves
    from slmquant.errors import ModelError, RefusedError
    from slmquant.machine.environment import usable_cores

    chosen = engines.load(engine)
    if not isinstance(chosen, Serves):
        able = [name for name in engines.names() if isinstance(_loaded(name), Serves)]
        raise RefusedError(f"{engine} brings no server; engines that do: {', '.join(able) or 'none'}")
    if not artifact.exists():
        raise ModelError(f"there is no {artifact}; write one with slmquant export")
    arguments = chosen.server(artifact, host, port, OpenOptions(threads or usable_cores(), context))
    if api_key is None and not _is_local(host):
        tell(f"without --api-key whoever reaches {host}:{port} can use the model")
    if not quiet:
        header = "" if api_key is None else f'-H "Authorization: Bearer ${API_KEY}" '
        body = json.dumps({"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 64})
        url = f"http://{host}:{port}/v1/chat/completions"
        tell("When it listens, ask it:")
        tell(f"curl {url} {header}-H 'Content-Type: application/json' -d {shlex.quote(body)}")
    code = _serve(arguments, api_key)
    if code not in (0, -signal.SIGTERM):
        tell(f"{engine}'s server ended with exit code {code}")
        sys.exit(1)


def _is_local(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _serve(arguments: Sequence[str], api_key: str | None) -> int:
    """Run a server until it ends, or until this process is told to; its exit code."""
    surroundings = {name: value for name, value in os.environ.items() if name != API_KEY}
    if api_key is not None:
        surroundings[API_KEY] = api_key
    with subprocess.Popen(arguments, env=surroundings) as server:
        before = signal.signal(signal.SIGTERM, lambda *_: server.terminate())  # else it would keep the port
        try:
            return server.wait()
        except KeyboardInterrupt:  # most likely it was interrupted, too
            server.terminate()
            server.wait()
            return 0
        finally:
            signal.signal(signal.SIGTERM, before)


def _loaded(name: str) -> object:
    from slmquant import engines

    try:
        return engines.load(name)
    except ImportError:
        return None
