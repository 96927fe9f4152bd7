"""Opens an executor by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from slmquant.progress import Progress
from slmquant.runs.executors.cluster import connected
from slmquant.runs.executors.contract import Executor
from slmquant.runs.executors.local import Local

ExecutorName = Literal["local", "ray"]


@contextmanager
def open_executor(name: ExecutorName, address: str | None, progress: Progress) -> Iterator[Executor]:
    """The executor of that name, until the block ends.

    Args:
        name: `local` for this machine, `ray` for a Ray cluster.
        address: Address of the cluster; see `cluster.connected`.
        progress: Receives progress updates.

    Raises:
        UnavailableError: Ray is not installed, or there is no such cluster.
    """
    if name == "local":
        yield Local(progress)
        return
    with connected(address):
        from slmquant.runs.executors.ray import Ray  # imports Ray, which is optional

        yield Ray(progress)
