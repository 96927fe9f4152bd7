"""What the system says of memory and of the work of others is read as it is meant."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from slmquant.machine.meters import (
    CpuTimes,
    cpu_times,
    forget_peak,
    mapped_bytes,
    noise_between,
    peak_rss_bytes,
    rss_bytes,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_what_is_resident_now_was_resident_at_the_peak() -> None:
    now = rss_bytes()

    assert 1e6 < now <= peak_rss_bytes() * 1.01  # the kernel counts pages per core, a little late


@linux
def test_a_peak_can_be_forgotten() -> None:
    held = np.ones(30_000_000, dtype=np.uint8)
    high = peak_rss_bytes()
    del held

    if not forget_peak():
        pytest.skip("this system does not let a process forget its peak")
    assert peak_rss_bytes() < high - 20_000_000


@linux
def test_pages_of_a_mapped_file_count_once_they_are_read(tmp_path: Path) -> None:
    artifact = tmp_path / "model file.gguf"
    artifact.write_bytes(bytes(64 * 4096))
    with artifact.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[::4096]) == 0  # touches every page
        assert mapped_bytes(artifact) == mapped_bytes(tmp_path) == 64 * 4096
        assert mapped_bytes(Path(__file__)) == 0
    assert mapped_bytes(artifact) == 0
    assert mapped_bytes(tmp_path / "none") is None
    assert mapped_bytes(artifact, smaps=tmp_path / "none") is None


def test_noise_is_what_nobody_here_did() -> None:
    before = CpuTimes(total_s=100.0, busy_s=50.0, stolen_s=1.0, own_s=7.0)
    after = CpuTimes(total_s=110.0, busy_s=58.0, stolen_s=3.0, own_s=10.0)

    noise = noise_between(before, after)

    assert noise is not None
    assert noise.stolen == pytest.approx(0.2)  # 2 of 10 s
    assert noise.others == pytest.approx(0.3)  # 8 busy, 2 of them stolen, 3 our own
    assert noise_between(before, before) is None


def test_the_clocks_of_this_machine_make_sense() -> None:
    times = cpu_times()

    assert 0 < times.own_s <= times.busy_s <= times.total_s
