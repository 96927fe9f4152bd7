"""A Ray cluster: how to reach it, which machines it has, and what a task may ask of them."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from slmquant.errors import RefusedError, UnavailableError, first_line
from slmquant.machine.environment import environment
from slmquant.store.record import Environment

HINT = "Ray is not installed; pip install 'slmquant[ray]'"
_REACH_S = 5.0
_START = "start one with `ray start --head`, run the command on a machine of the cluster, or leave --address out"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: Ray's name for it.
        address: Its address in the network.
        cpus: Its processors.
        gpus: Its cards.
        memory: Bytes of memory for tasks.
    """

    id: str
    address: str
    cpus: int
    gpus: int
    memory: int


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster until the block ends.

    Args:
        address: `HOST:PORT` of its head, or `auto`; None for the cluster that this machine belongs to, else one that
            consists of this machine and ends with the block.

    Raises:
        UnavailableError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", "0")  # a cell that needs more memory than there is ends as a row
    try:
        import ray
    except ImportError as error:
        raise UnavailableError(HINT) from error
    if address is not None:
        _check_reachable(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address is None else None,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UnavailableError(
            f"cannot reach a Ray cluster at {address or 'the default address'} ({first_line(error)}); {_START}"
        ) from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end this process without a word
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Check that something listens at `HOST:PORT`; Ray itself tries for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise UnavailableError(f"cannot read the address {address!r}; write HOST:PORT, e.g. 192.0.2.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), _REACH_S).close()
    except (OSError, OverflowError) as error:
        raise UnavailableError(f"no Ray cluster answers at {address} ({first_line(error)}); {_START}") from error


def nodes() -> list[Node]:
    """The machines of the cluster that are alive."""
    import ray

    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            found.append(
                Node(
                    node["NodeID"],
                    node["NodeManagerAddress"],
                    int(has.get("CPU", 0)),
                    int(has.get("GPU", 0)),
                    int(has.get("memory", 0)),
                )
            )
    return found


def check_alike(node: Node, other: Environment) -> None:
    """Check that a machine computes with the same versions as this one, as their records share a table.

    Raises:
        RefusedError: It does not.
    """
    mine = environment()
    pairs = {name: (version, other.versions.get(name)) for name, version in mine.versions.items()}
    if mine.git_revision is not None and other.git_revision is not None:
        pairs["slmquant's commit"] = mine.git_revision, other.git_revision
    for name, (here, there) in pairs.items():
        if here != there:
            raise RefusedError(
                f"the node {node.address} has {name} {there or 'missing'} and this machine {here}; their numbers may "
                "differ, so install the same versions on all machines (pip install --constraint)"
            )
