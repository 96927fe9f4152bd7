"""Run llama.cpp's own server: `python -m slmquant.engines.common.llama_server FILE --port 8080 ...`.

The server is part of xllamacpp. The Python server of cyllama ignores a model's chat template, so that chat models
answer badly.
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
    """Arguments of the Python interpreter that start the server.

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
    options = parser.parse_args()

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.artifact
    params.hostnames, params.port = [options.host], options.port
    # by default llama.cpp accepts requests from any web page in a browser; here only from pages on localhost
    params.cors_origins, params.cors_credentials, params.cors_origins_explicit = "localhost", False, True
    if key := os.environ.get(API_KEY):
        params.api_keys = [key]
    params.n_ctx, params.n_parallel, params.use_jinja = options.context, 1, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(
            f"llama.cpp's server does not start ({error}); check that {options.artifact} is a complete GGUF file and "
            f"that port {options.port} is free"
        )
    print(f"listening on {server.listening_address}", flush=True)  # noqa: T201  # a command-line program
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
