"""INVENTED TEST DATA: records that look like a small benchmark. No number here was ever measured."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta, timezone

from slmquant.store.record import (
    CalibrationSpec,
    CellSpec,
    DataCard,
    Environment,
    ItemOutcome,
    Metric,
    ModelCard,
    Phase,
    Record,
    Status,
    TaskSpec,
)

TEXT = "wikitext2:8"
ARC = "arc_easy:100"
HELLASWAG = "hellaswag:100"
PROTOCOL = "wikitext2 test, window 2048, stride 2048, no BOS"

ENVIRONMENT = Environment(
    platform="Linux-6.1-x86_64",
    cpu="Invented CPU 9000",
    cpu_flags=("avx2", "avx512f", "amx_bf16"),
    cores=2,
    threads=2,
    memory_bytes=16_000_000_000,
    python="3.11.7",
    versions={"slmquant": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    git_revision="0123abc",
)
MODEL = ModelCard(
    architecture="llama",
    parameters=134_515_008,
    embedding_share=0.21,
    provenance="dequantized from GGUF Q4_1, off-grid",
    licence="Apache-2.0",
)
STARTED = datetime(2026, 1, 1, 12, 0, tzinfo=timezone.utc)


def spec(method: str, scheme: str, model: str = "invented-135m", sha256: str = "ab" * 32, seed: int = 0) -> CellSpec:
    return CellSpec(
        model=model,
        model_sha256=sha256,
        method=method,
        scheme=scheme,
        calibration=CalibrationSpec() if method in ("gptq", "smoothquant") else None,
        tasks=(
            TaskSpec(name="wikitext2", limit=8),
            TaskSpec(name="arc_easy", limit=100),
            TaskSpec(name="hellaswag", limit=100),
        ),
        compute_dtype="bfloat16",
        seed=seed,
    )


def record(
    method: str,
    scheme: str,
    metrics: tuple[Metric, ...] = (),
    status: Status = "ok",
    reason: str | None = None,
    minute: int = 0,
    environment: Environment = ENVIRONMENT,
    cell: CellSpec | None = None,
) -> Record:
    started = STARTED + timedelta(minutes=minute)
    return Record(
        spec=cell or spec(method, scheme),
        status=status,
        reason=reason,
        metrics=metrics,
        phases=(
            Phase(name="load", seconds=1.5, peak_rss_bytes=700_000_000),
            Phase(name="quantize", seconds=12.25, peak_rss_bytes=1_400_000_000),
            Phase(name="evaluate", seconds=40.0, peak_rss_bytes=1_900_000_000, shared=False),
        )
        if status == "ok"
        else (),
        data=(
            DataCard(
                name="wikitext2",
                split="test",
                rows=4358,
                sha256="cd" * 32,
                licence="CC-BY-SA-3.0",
                source="folder",
            ),
            DataCard(
                name="arc_easy",
                split="test",
                rows=2376,
                sha256="ef" * 32,
                licence="CC-BY-SA-4.0",
                source="folder",
            ),
        )
        if status == "ok"
        else (),
        model=MODEL,
        environment=environment,
        started_at=started,
        finished_at=started + timedelta(seconds=54),
    )


def metric(
    name: str,
    value: float,
    task: str | None = None,
    stderr: float | None = None,
    n: int | None = None,
    unit: str = "1",
) -> Metric:
    better = {"perplexity": False, "acc": True, "acc_norm": True, "top1_agreement": True, "chance": None}
    higher = better.get(name, None if name == "calibration_tokens" else False)
    protocol = PROTOCOL if name == "perplexity" else None
    return Metric(
        name=name,
        value=value,
        unit=unit,
        higher_is_better=higher,
        task=task,
        n=n,
        stderr=stderr,
        protocol=protocol,
    )


def accuracy(name: str, value: float, task: str, chance: float = 0.25) -> tuple[Metric, Metric]:
    stderr = math.sqrt(value * (1 - value) / 99)
    return metric(name, value, task, stderr, 100, "ratio"), metric("chance", chance, task, unit="ratio")


def ok(
    method: str,
    scheme: str,
    size_mb: float,
    ppl: float,
    kl: float | None,
    arc: float,
    hella: float,
    seconds: float,
    mb: float,
) -> Record:
    divergence = (
        ()
        if kl is None
        else (
            metric("kl_mean", kl, TEXT, kl / 60, 16376, "nats"),
            metric("kl_median", kl * 0.7, TEXT, unit="nats"),
            metric("kl_p99", kl * 6.5, TEXT, unit="nats"),
            metric("top1_agreement", max(0.3, 1 - 1.3 * math.sqrt(kl) / 2), TEXT, 0.003, 16376, "ratio"),
        )
    )
    metrics = (
        metric("perplexity", ppl, TEXT, ppl * 0.012, 16376),
        *divergence,
        *accuracy("acc_norm", arc, ARC),
        *accuracy("acc_norm", hella, HELLASWAG),
        metric("stored_bytes", size_mb * 1e6, unit="bytes"),
        metric("bpw", size_mb * 8e6 / 134_515_008, unit="bits"),
        metric("quantize_s", seconds, unit="s"),
        metric("quantize_cpu_s", seconds, unit="s"),
        metric("quantize_peak_rss_bytes", mb * 1e6, unit="bytes"),
        metric("quantize_added_rss_bytes", mb * 1e6, unit="bytes"),
        metric("evaluate_s", 41.0, unit="s"),
    )
    return record(method, scheme, metrics, minute=round(seconds))


def benchmark() -> list[Record]:
    """Ten measured cells, one refused, one failed, one that ran out of memory."""
    return [
        ok("none", "W16A16", 269.1, 20.12, None, 0.54, 0.44, 1.4, 690),
        ok("rtn", "W8A8", 163.4, 20.31, 0.0046, 0.54, 0.44, 2.0, 820),
        ok("rtn", "W4A8", 110.3, 71.80, 1.3400, 0.37, 0.31, 2.1, 822),
        ok("rtn", "W4A16g64", 113.2, 28.84, 0.3610, 0.49, 0.40, 2.1, 824),
        ok("smoothquant", "W8A8", 163.5, 20.22, 0.0031, 0.55, 0.44, 21.7, 1240),
        ok("smoothquant", "W4A8", 110.4, 58.20, 1.1020, 0.40, 0.33, 22.4, 1251),
        ok("gptq", "W8A8", 163.4, 20.28, 0.0042, 0.54, 0.43, 48.2, 1610),
        ok("gptq", "W4A8", 110.3, 31.70, 0.4800, 0.47, 0.38, 49.8, 1622),
        ok("gptq", "W4A16g64", 113.2, 22.10, 0.0990, 0.53, 0.43, 49.1, 1618),
        ok("gptq", "W3A16g64", 100.1, 41.37, 0.7710, 0.43, 0.35, 50.3, 1620),
        record(
            "smoothquant",
            "W4A16g64",
            status="refused",
            reason="smoothquant needs quantized activations; W4A16g64 has none; use W4A8",
            minute=60,
        ),
        record(
            "gptq",
            "W2A16g64",
            status="failed",
            reason="NumericalError: Hessian of layer 3 <q_proj> is not positive",
            minute=61,
        ),
        record("rtn", "W3A16g64", status="out_of_memory", reason="killed at 15.8 GB", minute=62),
    ]


def items(of: Record) -> list[ItemOutcome]:
    """Outcomes whose mean is the cell's accuracy; the same items are hard for every cell."""
    outcomes = []
    for task in (ARC, HELLASWAG):
        accuracy_of_task = of.metric("acc_norm", task)
        if accuracy_of_task is None:
            continue
        order = list(range(100))
        random.Random(task).shuffle(order)
        right = set(order[: round(100 * accuracy_of_task.value)])
        outcomes += [ItemOutcome(task=task, item=str(i), values={"acc_norm": float(i in right)}) for i in range(100)]
    return outcomes
