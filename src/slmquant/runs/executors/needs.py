"""What the tasks of a plan ask of a machine of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slmquant.errors import RefusedError
from slmquant.runs.executors.cluster import Node
from slmquant.runs.plan import Plan

_RETRIES = 3
"""How often Ray runs a task again whose worker or machine was lost."""
_FLOAT32_BYTES = 4
_COPIES = 4
"""Memory that a cell asks for, in multiples of the float32 weights: the model, its copy, statistics or gradients."""
_LIBRARIES_BYTES = 1 << 30


@dataclass(frozen=True)
class Needs:
    """What the tasks of a plan ask of a machine.

    Attributes:
        cpus: Processors of a cell: all of the smallest machine, or as many as OMP_NUM_THREADS says.
        gpus: Cards of a cell.
        memory: Most bytes of memory that a task may ask for.
        whole: Processors of the largest machine, which an engine has for itself.
        engine_threads: Threads of an engine: as many, or as OMP_NUM_THREADS says.
    """

    cpus: int
    gpus: int
    memory: int
    whole: int
    engine_threads: int

    @classmethod
    def of(cls, plan: Plan, machines: Sequence[Node]) -> Needs:
        """What `plan` asks of a cluster.

        Raises:
            RefusedError: No machine has it.
        """
        gpus = int(plan.device.startswith("cuda"))
        able = [node for node in machines if node.cpus >= 1 and node.gpus >= gpus]
        if not able:
            what = "a processor and a card" if gpus else "a processor"
            raise RefusedError(
                f"no node of the Ray cluster has {what} for tasks; add one with `ray start --address=HOST:PORT`"
            )
        smallest, largest = min(node.cpus for node in able), max(node.cpus for node in able)
        asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        threads = int(asked) if asked.isdecimal() and int(asked) > 0 else largest
        memory = min(node.memory for node in able)
        return cls(min(threads, smallest), gpus, memory, largest, min(threads, largest))

    def cell(self, parameters: int) -> dict[str, Any]:
        """Ray's options of a task that computes with a model of so many parameters."""
        memory = parameters * _FLOAT32_BYTES * _COPIES + _LIBRARIES_BYTES
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "memory": min(memory, self.memory),
            "max_retries": _RETRIES,
        }

    def engine(self) -> dict[str, Any]:
        """Ray's options of a task that times an engine: nothing else runs beside it."""
        return {"num_cpus": self.whole, "num_gpus": self.gpus, "max_retries": _RETRIES}
