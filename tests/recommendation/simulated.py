"""INVENTED TEST DATA: cells of a model whose candidates have known divergences. No number here was ever measured."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import timedelta

from slmquant.store.record import CalibrationSpec, CellSpec, ItemOutcome, Metric, Record, TaskSpec
from tests import invented

MODEL = "invented-135m"
WINDOWS = 8
PROTOCOL = (
    "wikitext2_test tokenized once, windows of 2048, stride 2048, tail dropped, no BOS, 8 of 148 windows, evenly spread"
)
ITEMS = 200

Cell = tuple[Record, Sequence[ItemOutcome]]


def divergences(true: float, windows: int = WINDOWS, spread: float = 0.05, seed: int = 0) -> list[float]:
    """Divergences of windows: what a window shares with all candidates, and a little of its own."""
    shared, own = random.Random("windows"), random.Random(f"{seed} {true}")
    return [true * (1 + 0.3 * shared.gauss(0, 1) ** 2) * (1 + spread * own.gauss(0, 1)) for _ in range(windows)]


def cell(
    method: str,
    scheme: str,
    kl: Sequence[float],
    size: int,
    *,
    task: str = "wikitext2:8",
    first: int = 0,
    right: Sequence[bool] | None = None,
    minute: int = 0,
    make_s: float = 60.0,
    calibrated: bool = False,
) -> Cell:
    """A cell measured in torch: divergence window by window, from window `first` on, and answers to a task."""
    name, _, limit = task.partition(":")
    tasks = [TaskSpec(name=name, limit=int(limit))]
    items = [ItemOutcome(task=task, item=str(p), values={"kl_mean": value}) for p, value in enumerate(kl, start=first)]
    metrics = [
        invented.metric("stored_bytes", size, unit="bytes"),
        invented.metric("load_model_s", 6.0, unit="s"),
        invented.metric("quantize_s", make_s - 6.0, unit="s"),
    ]
    if kl:
        mean = sum(kl) / len(kl)
        metrics.append(invented.metric("kl_mean", mean, task, unit="nats").model_copy(update={"protocol": PROTOCOL}))
    if right is not None:
        tasks.append(TaskSpec(name="arc_easy", limit=len(right)))
        metrics.append(invented.metric("acc", sum(right) / len(right), f"arc_easy:{len(right)}", unit="ratio"))
        items += [
            ItemOutcome(task=f"arc_easy:{len(right)}", item=str(place), values={"acc": float(answer)})
            for place, answer in enumerate(right)
        ]
    spec = invented.spec(method, scheme).model_copy(update={"tasks": tuple(tasks)})
    if calibrated:
        spec = spec.model_copy(update={"calibration": CalibrationSpec()})
    return invented.record(method, scheme, tuple(metrics), minute=minute, cell=spec), items


def on_engine(of: Cell, engine: str, file_bytes: int, tokens_per_s: float, memory: int) -> Cell:
    """The cell in which an engine runs it."""
    record, _ = of
    metrics: tuple[Metric, ...] = (
        invented.metric("artifact_bytes", file_bytes, unit="bytes"),
        invented.metric("decode_tokens_per_s@512", tokens_per_s, unit="tokens/s"),
        invented.metric("inference_peak_rss_bytes", memory, unit="bytes"),
    )
    spec: CellSpec = record.spec.on(engine)
    return invented.record(spec.method, spec.scheme, metrics, cell=spec), ()


def answers(share: float, items: int = ITEMS) -> list[bool]:
    """Answers of which a share is right; the same items are hard for everyone."""
    order = list(range(items))
    random.Random("items").shuffle(order)
    right = set(order[: round(share * items)])
    return [place in right for place in range(items)]


def reference(accuracy: float | None = None) -> Cell:
    """Full precision."""
    right = None if accuracy is None else answers(accuracy)
    return cell("none", "W16A16", (), 269_000_000, right=right)


def planted() -> list[Cell]:
    """Full precision and seven candidates; among those below 120 MB, gptq/W4A16g64 is the best by far."""
    sizes = {"W8A8": 163_000_000, "W4A16g64": 113_000_000, "W3A16g64": 100_000_000}
    true: Mapping[tuple[str, str], float] = {
        ("rtn", "W8A8"): 0.03,
        ("gptq", "W8A8"): 0.02,
        ("rtn", "W4A16g64"): 0.40,
        ("gptq", "W4A16g64"): 0.10,
        ("awq", "W4A16g64"): 0.20,
        ("rtn", "W3A16g64"): 2.0,
        ("gptq", "W3A16g64"): 0.8,
    }
    return [
        reference(),
        *(
            cell(method, scheme, divergences(kl), sizes[scheme], minute=number, make_s=30 if method == "rtn" else 180)
            for number, ((method, scheme), kl) in enumerate(true.items(), start=1)
        ),
    ]


def later(of: Cell, minutes: int) -> Cell:
    """The same cell, finished later."""
    record, items = of
    moved = {name: getattr(record, name) + timedelta(minutes=minutes) for name in ("started_at", "finished_at")}
    return record.model_copy(update=moved), items
