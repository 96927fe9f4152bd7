"""The full factorial of what a scheme rounds: weights, activations, key-value cache, embedding and head."""

from __future__ import annotations

import itertools
from functools import reduce
from operator import or_

from slmquant.diagnosis.subject import Subject
from slmquant.diagnosis.switches import Rounded
from slmquant.errors import RefusedError
from slmquant.progress import Progress, track
from slmquant.schemes import Scheme
from slmquant.store.experiments import OPERAND_NAMES, Factorial, FactorialCell, Operand


def check_scheme(scheme: Scheme) -> None:
    """Check that a scheme rounds at least two operands, before anything is loaded.

    Raises:
        RefusedError: It rounds fewer.
    """
    rounds: dict[Operand, object] = {
        "weights": scheme.weights,
        "activations": scheme.activations,
        "cache": scheme.kv,
        "embeddings": scheme.rounds_embeddings,
    }
    operands = [operand for operand, part in rounds.items() if part]
    if len(operands) < 2:
        only = f"only {OPERAND_NAMES[operands[0]]}" if operands else "nothing"
        raise RefusedError(
            f"{scheme} rounds {only}, so no combinations can be compared; give a scheme that rounds more, such as W8A8 "
            "or W8A8KV8E8"
        )


def run_factorial(subject: Subject, scheme: Scheme, progress: Progress) -> Factorial:
    """Measure every combination of the operands that the scheme rounds, all on the same windows.

    Args:
        subject: The model, quantized to the scheme.
        scheme: The scheme.
        progress: Receives progress updates.

    Raises:
        NumericalError: A divergence is not finite.
    """
    parts = {operand: subject.switches.of(operand) for operand in OPERAND_NAMES}
    operands: list[Operand] = [operand for operand, part in parts.items() if part]
    combinations = [chosen for size in range(len(operands) + 1) for chosen in itertools.combinations(operands, size)]
    cells = []
    for chosen in track(combinations, f"{scheme}: combinations", progress):
        rounded = reduce(or_, (parts[operand] for operand in chosen), Rounded())
        cells.append(FactorialCell(rounded=chosen, divergence=subject.measured(rounded)))
    return Factorial(
        scheme=str(scheme),
        operands=tuple(operands),
        absent={one: f"{scheme} leaves {OPERAND_NAMES[one]} in 16 bits" for one in parts if one not in operands},
        cells=tuple(cells),
    )
