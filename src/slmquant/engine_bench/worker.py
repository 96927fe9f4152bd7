"""The process that one engine runs in: it answers requests until nobody asks any more.

`python -m slmquant.engine_bench.worker`. Requests and answers are pickles on standard input and on what was standard
output when it began; whatever an engine prints goes to standard error. Started afresh rather than forked from a server
that has torch in memory, so that resident memory is the engine's.
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

from slmquant.engine_bench.requests import Desk, Request
from slmquant.machine.process import Failure, explain

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer until standard input ends."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[Request[object]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    desk = Desk()
    while True:
        request = requests.get()
        answer: object
        try:
            answer = request.answer(desk)
        except Exception as error:  # noqa: BLE001  # whatever ends a request becomes a row
            answer = explain(error)
        try:
            whole = pickle.dumps(answer)
        except Exception as error:  # noqa: BLE001  # an engine may hand out objects of its own
            whole = pickle.dumps(Failure("failed", f"the engine's answer cannot be sent: {error}"))
        answers.write(whole)
        answers.flush()


def _listen(pipe: BinaryIO, requests: queue.SimpleQueue[Request[object]]) -> None:
    """Requests come in while another is answered only when nobody waits any more: the end of input ends all."""
    while True:
        try:
            requests.put(pickle.load(pipe))  # noqa: S301  # from our own parent
        except (EOFError, OSError):
            os._exit(0)


def _end_with_parent() -> None:
    """Have the kernel end this process with its parent, also while it is stopped."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # without it, the end of input does
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
