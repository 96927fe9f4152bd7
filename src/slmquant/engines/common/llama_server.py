"""llama.cpp's own server as a program: `python -m slmquant.engines.common.llama_server FILE --port 8080 ...`.

It comes with xllamacpp. The server in Python that cyllama brings leaves a model's chat template unused, so that a
chat model answers as if it had never been taught to.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from slmquant.engines.common.serving import API_KEY
from slmquant.errors import UnavailableError

NOT_INSTALLED = "llama.cpp's server is not installed; pip install 'slmquant[serve]'"


def command(artifact: Path, host: str, port: int, context: int, threads: int) -> tuple[str, ...]:
    """What follows the interpreter on the command line.

    Raises:
        UnavailableError: The server is not installed.
    """
    if find_spec("xllamacpp") is None:
        raise UnavailableError(NOT_INSTALLED)
    options = {"host": host, "port": port, "context": context, "threads": threads}
    return (
        "-m",
        __name__,
        str(artifact),
        *(text for name, value in options.items() for text in (f"--{name}", f"{value}")),
    )


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="llama.cpp's OpenAI-compatible server")
    parser.add_argument("artifact")
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("port", "context", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = given.artifact
    params.hostnames, params.port = [given.host], given.port
    # llama.cpp lets every web page that a browser shows ask it; here only those that this machine serves may
    params.cors_origins, params.cors_credentials, params.cors_origins_explicit = "localhost", False, True
    if key := os.environ.get(API_KEY):
        params.api_keys = [key]
    params.n_ctx, params.n_parallel, params.use_jinja = given.context, 1, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(
            f"llama.cpp's server does not start ({error}): is {given.artifact} a whole GGUF file, and is nobody else "
            f"listening on port {given.port}?"
        )
    print(f"listening on {server.listening_address}", flush=True)  # noqa: T201  # this is a program
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
