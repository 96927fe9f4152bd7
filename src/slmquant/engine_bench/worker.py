"""The process that one engine runs in: `python -m slmquant.engine_bench.worker`.

It answers requests until standard input ends. Requests are pickles on standard input, answers pickles on the original
standard output; everything an engine prints goes to standard error. The process is started fresh, not forked from a
server that has imported torch, so that its resident memory is the engine's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import sys
import threading
from typing import BinaryIO

from slmquant.engine_bench.requests import Request, WorkerState
from slmquant.machine.process import Failure, explain

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer requests until standard input ends."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[Request[object]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    state = WorkerState()
    while True:
        request = requests.get()
        answer: object
        try:
            answer = request.answer(state)
        except Exception as error:  # noqa: BLE001  # whatever ends a request becomes a row
            answer = explain(error)
        try:
            whole = pickle.dumps(answer)
        except Exception as error:  # noqa: BLE001  # an engine may hand out objects of its own
            whole = pickle.dumps(Failure("failed", f"the engine's answer cannot be sent: {error}"))
        answers.write(whole)
        answers.flush()


def _listen(pipe: BinaryIO, requests: queue.SimpleQueue[Request[object]]) -> None:
    """Queue incoming requests; exit at once when input ends, even in the middle of an answer."""
    while True:
        try:
            requests.put(pickle.load(pipe))  # noqa: S301  # from our own parent
        except (EOFError, OSError):
            os._exit(0)


def _end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, even while it is suspended."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # without it, the end of input ends the process
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
