"""What was made is held against what was asked, and said in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmquant.engine_bench.jobs import EngineJob, EngineResult
from slmquant.errors import RefusedError
from slmquant.measuring.making import Made, check_made, missed, proof
from slmquant.recommendation.question import ask
from slmquant.store.record import Status
from tests import invented
from tests.recommendation import simulated


def made(status: Status = "ok", reason: str | None = None) -> Made:
    metrics = (
        invented.metric("decode_tokens_per_s@512", 25.0, unit="tokens/s"),
        invented.metric("decode_speedup@512", 2.5, unit="ratio"),
        invented.metric("inference_peak_rss_bytes", 200_000_000, unit="bytes"),
        invented.metric("parity_kl_mean", 0.002, unit="nats"),
    )
    path = Path("model.gguf")
    result = EngineResult(EngineJob("model.gguf", "llamacpp", path), status, reason, "1", metrics, (), ())
    return Made(path, 94_000_000, result, ())


def test_the_proof_has_every_figure() -> None:
    assert proof(made()) == (
        "94 MB, 25.0 tokens/s, 2.50 times as fast as full precision, 200 MB of memory, 0.002 nats from what torch "
        "computes of the same codes"
    )


def test_a_file_that_has_what_was_asked_is_accepted() -> None:
    asked = ask(simulated.MODEL, max_bytes="95MB", min_tokens_per_second=20, max_memory="300MB", engine="llamacpp")

    assert missed(made(), asked) == []


def test_a_file_that_misses_what_was_asked_is_refused_with_each_figure() -> None:
    asked = ask(simulated.MODEL, max_bytes="93MB", min_tokens_per_second=30, max_memory="100MB", engine="llamacpp")

    with pytest.raises(RefusedError) as refused:
        check_made(made("failed", "the engine computes another model"), asked)

    assert str(refused.value) == (
        "model.gguf was made, but is not what was asked: 94 MB and not at most 93 MB; 25.0 tokens/s and not at least "
        "30; 200 MB of memory and not at most 100 MB; llamacpp failed: the engine computes another model"
    )
