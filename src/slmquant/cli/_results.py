"""Shared by commands that read results: options, opening the store, filters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

if TYPE_CHECKING:
    from slmquant.store import Store
    from slmquant.store.filters import Filters
    from slmquant.store.record import Status

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Result store to read; default: SLMQUANT_STORE, else results/slmquant.sqlite.",
        show_default=False,
    ),
]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Only cells of this model.")]

MarginAccuracyOption = Annotated[
    float,
    typer.Option(
        "--margin-accuracy", min=0.0001, max=0.9999, help="Largest difference in accuracy that counts as equivalent."
    ),
]
MarginNatsOption = Annotated[
    float,
    typer.Option(
        "--margin-nats",
        min=1e-6,
        max=100,
        help="Largest difference in loss or mean divergence that counts as equivalent, in nats per token.",
    ),
]


CostPerHourOption = Annotated[
    float | None,
    typer.Option(
        "--cost-per-hour",
        min=0,
        max=1e6,
        help="Money that an hour of this machine costs; adds a column with the cost of quantizing.",
        show_default=False,
    ),
]


def open_store(path: Path | None) -> Store:
    """Open the store at `path`, or at the default place, for reading."""
    from slmquant.store import Store, default_store_path

    return Store(path or default_store_path(), read_only=True)


def filters(
    store: Store,
    model: str | None = None,
    method: str | None = None,
    scheme: str | None = None,
    status: str | None = None,
) -> Filters:
    """Filters of records, from the options of a command.

    Raises:
        UnknownNameError: The store holds no cell of that model, method or scheme, or the status is not known.
        SchemeError: The scheme cannot be read.
    """
    from typing import get_args

    from slmquant.errors import UnknownNameError
    from slmquant.schemes import parse
    from slmquant.store.record import Status

    scheme = str(parse(scheme)) if scheme is not None else None
    if status is not None and status not in get_args(Status):
        raise UnknownNameError("status", status, get_args(Status))
    asked: tuple[tuple[Literal["model", "method", "scheme"], str | None], ...] = (
        ("model", model), ("method", method), ("scheme", scheme),
    )  # fmt: skip
    for column, name in asked:
        if name is not None and (known := store.names(column)) and name not in known:
            raise UnknownNameError(f"measured {column}", name, known)
    return {"model": model, "method": method, "scheme": scheme, "status": cast("Status | None", status)}
