"""Figures of engines are medians of what was timed, named by their conditions; what was not measured has none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from slmquant.engine_bench.figures import (
    Conditions,
    TokenCost,
    loading_metrics,
    noise_metrics,
    paired_ratios,
    speed_metrics,
    speedup_metrics,
    steps_for,
    too_few_steps,
)
from slmquant.engine_bench.requests import Memory, Opened, Pass, Point, WorkerState
from slmquant.engines.common.contract import OpenOptions
from slmquant.machine.limits import MachineLimits, block_bytes, last_caches, measure_limits
from slmquant.machine.meters import Noise
from slmquant.store.record import Metric
from tests.made_up_engines import Bigram
from tests.narrowed import present

ALL = Conditions("made-up (1)", threads=4, all_threads=True)
ONE = Conditions("made-up (1)", threads=1, all_threads=False)


def one_pass(prefill_s: float | None, *steps_s: float, joules: float | None = None) -> Pass:
    return Pass(prefill_s, steps_s, None if prefill_s is None else joules, joules, Noise(stolen=0.1, others=0.2))


def named(metrics: list[Metric]) -> dict[str, Metric]:
    assert len({metric.name for metric in metrics}) == len(metrics)
    return {metric.name: metric for metric in metrics}


def test_speeds_are_medians_over_passes() -> None:
    passes = [one_pass(0.5, 0.1, 0.1), one_pass(0.25, 0.2, 0.2), one_pass(1.0, 0.1, 0.3)]

    found = named(speed_metrics(Point(100, 2), passes, ALL, TokenCost(), None))

    assert found["prefill_tokens_per_s@100"].value == 200  # of 200, 400, 100
    assert found["prefill_tokens_per_s_iqr@100"].value == 150  # 300 - 150
    assert found["ttft_s@100"].value == 0.5
    assert found["decode_tokens_per_s@100"].value == pytest.approx(5)  # of 10, 5, 5
    assert found["inter_token_p50_s@100"].value == pytest.approx(0.15)
    assert found["inter_token_p50_s@100"].n == 6
    assert found["decode_tokens_per_s@100"].n == 3
    assert "4 threads" in (found["decode_tokens_per_s@100"].protocol or "")


def test_names_say_threads_where_those_are_not_all_cores() -> None:
    found = named(speed_metrics(Point(0, 150), [one_pass(None, *[0.1] * 150)] * 2, ONE, TokenCost(), None))

    assert {"decode_tokens_per_s@0/1t", "decode_tokens_per_s_iqr@0/1t", "inter_token_p99_s@0/1t"} <= set(found)
    assert not any(name.startswith(("prefill", "ttft")) for name in found)


def test_a_quantile_is_told_only_where_the_largest_step_lies_above_it_most_likely() -> None:
    quick = [one_pass(0.1, *[0.1] * 16)] * 3  # 48 steps lie below the 99th percentile with a probability of 0.62
    whole = [one_pass(0.1, *[0.1] * 64)] * 10
    told = [
        [name for name in named(speed_metrics(Point(100, 16), passes, ALL, TokenCost(), None)) if "inter_token" in name]
        for passes in (quick, whole)
    ]

    assert [steps_for(percent) for percent in (50, 90, 99)] == [5, 29, 299]
    assert told[0] == ["inter_token_p50_s@100", "inter_token_p90_s@100"]
    assert told[1] == [*told[0], "inter_token_p99_s@100"]
    assert "48 steps were timed after 100 tokens" in (too_few_steps(Point(100, 16), quick) or "")
    assert too_few_steps(Point(100, 64), whole) is None and too_few_steps(Point(100, 0), quick) is None


def test_a_roof_is_what_the_machine_was_measured_to_do() -> None:
    limits = MachineLimits(4, read_bytes_per_s=1e9, float32_flop_per_s=1e9, bfloat16_flop_per_s=4e9)
    cost = TokenCost(read_bytes=50_000_000, multiplied=1_000_000, head=2_000_000)

    found = named(speed_metrics(Point(100, 2), [one_pass(0.1, 0.1, 0.1)], ALL, cost, limits))

    assert found["decode_bytes_per_s@100"].value == pytest.approx(5e8)  # 10 tokens/s
    assert found["decode_bandwidth_share@100"].value == pytest.approx(0.5)
    # 2e6 a token at 1000 tokens/s, and 4e6 ten times a second for the last tokens, of the better 4e9
    assert found["prefill_flop_share@100"].value == pytest.approx(0.51)


def test_what_nobody_knows_is_absent() -> None:
    limits = MachineLimits(4, 1e9, 1e9, 1e9)

    found = named(speed_metrics(Point(100, 1), [one_pass(0.1, 0.1)], ALL, TokenCost(), limits))

    assert not any("share" in name or "bytes" in name or "_j_" in name for name in found)
    assert noise_metrics([Pass(None, (0.1,), None, None, None)], ALL) == []


def test_energy_is_per_token_and_needs_every_pass() -> None:
    passes = [one_pass(0.1, 0.1, 0.1, joules=4.0)] * 2

    found = named(speed_metrics(Point(100, 2), passes, ALL, TokenCost(), None))
    partly = named(speed_metrics(Point(100, 2), [*passes, one_pass(0.1, 0.1, 0.1)], ALL, TokenCost(), None))

    assert found["decode_j_per_token@100"].value == 2
    assert "energy of the processor packages (RAPL)" in (found["decode_j_per_token@100"].protocol or "")
    assert found["prefill_j_per_token@100"].value == pytest.approx(0.04)
    assert not any("_j_" in name for name in partly)


def test_speedups_are_paired_so_that_a_slow_machine_cancels() -> None:
    slowness = np.random.default_rng(0).uniform(1, 10, size=9)
    mine = [one_pass(0.1 * slow, 0.02 * slow) for slow in slowness]
    theirs = [one_pass(0.2 * slow, 0.06 * slow) for slow in slowness]

    ratios = paired_ratios(Point(8, 1), mine, theirs)
    found = named(speedup_metrics(Point(8, 1), ratios, ALL, "full precision"))

    assert ratios["decode_speedup"] == pytest.approx([3] * 9)
    assert found["decode_speedup@8"].stderr == pytest.approx(0, abs=1e-12)
    assert found["decode_speedup@8"].value == pytest.approx(3)
    assert found["decode_speedup_iqr@8"].value == pytest.approx(0, abs=1e-12)
    assert found["prefill_speedup@8"].value == pytest.approx(2)
    assert "full precision" in (found["decode_speedup@8"].protocol or "")


def test_the_error_of_a_paired_speedup_is_that_of_a_median_over_rounds() -> None:
    ratios = np.random.default_rng(3).normal(2, 0.1, size=101)

    (speedup, _) = speedup_metrics(Point(8, 1), {"decode_speedup": ratios.tolist()}, ALL, "full precision")

    assert speedup.stderr == pytest.approx(1.2533 * 0.1 / 101**0.5, rel=0.35)  # of a median of normal values
    (alone,) = speedup_metrics(Point(8, 1), {"decode_speedup": [2.0]}, ALL, "full precision")
    assert alone.stderr is None


def test_memory_is_told_with_and_without_the_mapped_file() -> None:
    opened = Opened(
        "1", 0.5, 11, 10, Memory(100, 120, 60), peak_of_its_own=True, energy_of="nobody", energy_reason=None
    )

    found = named(loading_metrics([opened], Memory(130, 140, 60), ALL))
    unmapped = named(loading_metrics([opened], Memory(130, 140, None), ALL))

    assert found["inference_added_rss_bytes"].value == 140 - 10
    figures = ("load_s", "load_peak_rss_bytes", "inference_peak_rss_bytes", "steady_rss_bytes", "mapped_rss_bytes")
    assert [found[name].value for name in figures] == [0.5, 120, 140, 130, 60]
    assert "mapped_rss_bytes" not in unmapped


def test_a_pass_feeds_what_its_point_says() -> None:
    fed: list[int] = []

    class Counting(Bigram):
        def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
            fed.append(len(tokens))
            return super().feed(tokens, every=every)

    state = WorkerState(session=Counting(OpenOptions(1, 8)))

    assert Point(0, 3).answer(state).prefill_s is None and fed == [1, 1, 1]
    fed.clear()
    assert len(Point(5, 3).answer(state).steps_s) == 3 and fed == [5, 1, 1, 1]
    fed.clear()
    assert Point(8, 0).answer(state).steps_s == () and fed == [8]


def cache(cpus: Path, cpu: int, index: int, **facts: str) -> None:
    folder = cpus / f"cpu{cpu}" / "cache" / f"index{index}"
    folder.mkdir(parents=True)
    for name, text in facts.items():
        (folder / name).write_text(f"{text}\n")


def test_the_block_that_is_read_does_not_fit_into_the_caches(tmp_path: Path) -> None:
    for cpu in range(4):
        cache(tmp_path, cpu, 0, level="1", size="48K", shared_cpu_list=str(cpu))
        cache(tmp_path, cpu, 3, level="3", size="307200K", shared_cpu_list="0-1" if cpu < 2 else "2-3")
    cache(tmp_path, 4, 0, level="3")  # tells no size

    assert last_caches(tmp_path) == 2 * 300 << 20
    assert last_caches(tmp_path / "nowhere") is None
    assert block_bytes(300 << 20, 64 << 30) == 1200 << 20
    assert block_bytes(None, 64 << 30) == 256 << 20
    assert block_bytes(300 << 20, 2 << 30) == 512 << 20  # what memory allows
    told = [MachineLimits(1, 1.0, 1.0, 1.0, 1200 << 20, caches).reading for caches in (300 << 20, None)]
    assert told == [
        "read from a block of 1200 MiB, 4.0 times the last-level caches",
        "read from a block of 1200 MiB, the system does not say what its caches hold",
    ]


def test_the_machine_has_limits() -> None:
    limits = measure_limits(threads=1, seconds=0.01)

    assert limits.cache_bytes is None or present(limits.block_bytes) >= min(
        4 * limits.cache_bytes, psutil.virtual_memory().available // 8
    )

    assert 1e8 < limits.read_bytes_per_s < 1e13
    assert limits.flop_per_s >= limits.float32_flop_per_s > 1e8
