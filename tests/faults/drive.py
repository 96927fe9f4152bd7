"""Runs the command line in a fork of a process that has imported it, where a new interpreter would import for seconds.

The processes are those of a real command: the driver, its fork server, and the server's children. The fork server is
itself a fork of the driver instead of a new interpreter.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from pathlib import Path

PRELOADED = (
    "slmquant.cli",
    "slmquant.runs.warm",
    "slmquant.runs.runner",
    "slmquant.runs.survey",
    "slmquant.report.page",
    "slmquant.report.terminal",
    "lm_eval.tasks",
    "matplotlib.pyplot",
    "transformers.models.llama.modeling_llama",
    "tests.faults.settled",
)
"""What the process has imported that drivers are forked from."""
_MAIN = "from slmquant.cli import main; main()"


def drive(
    words: Sequence[str], environment: Mapping[str, str], said: Path, prepare: Callable[[], object] | None
) -> None:
    """Become a command, in a group of processes of its own.

    Args:
        words: Its words after `slmquant`.
        environment: Its variables.
        said: File for its standard error.
        prepare: Called first; None for a new interpreter.
    """
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    _default_signals()
    for stream, path in ((1, os.devnull), (2, said)):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    if prepare is None:
        os.execv(sys.executable, [sys.executable, "-c", _MAIN, *words])
    from slmquant.cli import main

    util.spawnv_passfds = _fork  # type: ignore[assignment]  # it is only called with text
    sys.argv = ["slmquant", *words]
    prepare()
    main()


def _fork(path: bytes, arguments: Sequence[str], keep: Sequence[int]) -> int:
    """What `multiprocessing` starts an interpreter with, in a fork: runs its last argument as code.

    Args:
        path: The interpreter.
        arguments: Its arguments, the last of which is code.
        keep: Files that stay open.
    """
    del path
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _default_signals()
        for first, after in itertools.pairwise([2, *sorted({*keep} - {0, 1, 2}), os.sysconf("SC_OPEN_MAX")]):
            if first + 1 < after:
                os.closerange(first + 1, after)
        exec(arguments[-1], {})
        code = 0
    finally:
        os._exit(code)


def _default_signals() -> None:
    """What a signal does in a new interpreter."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
