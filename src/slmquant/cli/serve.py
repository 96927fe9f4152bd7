"""`slmquant serve`: serve an artifact with its engine's own server."""

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
"""The same as in `engines.common.serving`, which is imported only when needed."""


def command(
    artifact: Annotated[Path, typer.Argument(help="File or folder written by `slmquant export`.")],
    engine: Annotated[str, typer.Option("--engine", "-e", help="Engine whose server to start.")] = "llamacpp",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines (then set --api-key).")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    context: Annotated[int, typer.Option(min=8, max=MOST_TOKENS, help="Longest conversation, in tokens.")] = 2048,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="Number of threads.", show_default="all cores")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=API_KEY, help="Key that requests must send (`Authorization: Bearer KEY`).", show_default="none"
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Start the engine's own OpenAI-compatible server; press Ctrl-C to stop it.

    By default only this machine can reach it, and every user of the machine may use it. Set a key in SLMQUANT_API_KEY
    rather than on the command line, where other users of the machine can read it.

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
        raise RefusedError(f"{engine} has no server; engines with a server: {', '.join(able) or 'none'}")
    if not artifact.exists():
        raise ModelError(f"{artifact} does not exist; write one with `slmquant export`")
    arguments = chosen.server(artifact, host, port, OpenOptions(threads or usable_cores(), context))
    if api_key is None and not _is_local(host):
        tell(f"warning: without --api-key, anyone who can reach {host}:{port} can use the model")
    if not quiet:
        header = "" if api_key is None else f'-H "Authorization: Bearer ${API_KEY}" '
        body = json.dumps({"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 64})
        url = f"http://{host}:{port}/v1/chat/completions"
        tell("Once the server listens, try:")
        tell(f"curl {url} {header}-H 'Content-Type: application/json' -d {shlex.quote(body)}")
    code = _serve(arguments, api_key)
    if code not in (0, -signal.SIGTERM):
        tell(f"{engine}'s server ended with exit code {code}")
        sys.exit(1)


def _is_local(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _serve(arguments: Sequence[str], api_key: str | None) -> int:
    """Run a server until it ends or this process is interrupted; returns its exit code."""
    environment = {name: value for name, value in os.environ.items() if name != API_KEY}
    if api_key is not None:
        environment[API_KEY] = api_key
    with subprocess.Popen(arguments, env=environment) as server:
        before = signal.signal(signal.SIGTERM, lambda *_: server.terminate())  # otherwise it would keep the port
        try:
            return server.wait()
        except KeyboardInterrupt:  # the server probably got it, too
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
