"""What quantizing costs is told apart from the interpreter, from loading and from what others do on the machine."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from slmquant.machine import phases
from slmquant.machine.energy import PackageEnergy
from slmquant.machine.meters import NO_DISK_COUNTERS
from slmquant.machine.phases import Meter
from slmquant.store.record import Phase
from slmquant.tracks.consumption import consumption_metrics, median_phase

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LOAD = Phase(name="load", seconds=60.0, cpu_s=2.0, added_rss_bytes=500, peak_rss_bytes=900, noise=0.9)
CAPTURE = Phase(name="capture", seconds=3.0, cpu_s=4.0, added_rss_bytes=40, peak_rss_bytes=950, noise=0.2, shared=True)
QUANTIZE = Phase(name="quantize", seconds=1.0, cpu_s=1.5, added_rss_bytes=70, peak_rss_bytes=1000, noise=0.1)


def values(*phases: Phase) -> dict[str, float]:
    return {metric.name: metric.value for metric in consumption_metrics(phases, None)}


def test_loading_and_waiting_are_no_part_of_a_method() -> None:
    found = values(LOAD, CAPTURE, QUANTIZE)

    assert found["quantize_s"] == 4.0
    assert found["quantize_cpu_s"] == 5.5
    assert found["quantize_added_rss_bytes"] == 70
    assert found["quantize_peak_rss_bytes"] == 1000
    assert found["load_model_s"] == 60.0
    assert found["quantize_noise"] == 0.2


def test_what_was_not_measured_is_absent() -> None:
    bare = QUANTIZE.model_copy(update={"cpu_s": None, "added_rss_bytes": None, "noise": None, "peak_rss_bytes": None})

    assert set(values(bare)) == {"quantize_s"}


def test_of_several_runs_the_median_counts_and_the_range_is_told() -> None:
    runs = [QUANTIZE.model_copy(update={"cpu_s": cpu, "seconds": 10 * cpu}) for cpu in (1.0, 3.0, 1.2)]
    phase = median_phase(runs)
    (spent,) = [m for m in consumption_metrics([CAPTURE, phase], None) if m.name == "quantize_cpu_s"]

    assert (phase.cpu_s, phase.seconds) == (1.2, 12.0)
    assert [run.cpu_s for run in phase.repeated] == [1.0, 3.0, 1.2]
    assert spent.value == 4.0 + 1.2
    assert "1.00 to 3.00 s" in str(spent.protocol)


def test_sleeping_takes_wall_time_and_no_processor_time() -> None:
    meter = Meter()
    with meter.phase("sleep"):
        time.sleep(0.3)
    with meter.phase("work"):
        started = time.process_time()
        while time.process_time() - started < 0.2:
            pass
    sleep, work = meter.phases

    assert sleep.seconds >= 0.3 > 0.15 > (sleep.cpu_s or 0)
    assert (work.cpu_s or 0) >= 0.2


@linux
def test_memory_is_that_of_the_phase_above_what_was_there() -> None:
    meter = Meter()
    held = np.ones(50_000_000, dtype=np.uint8)
    with meter.phase("quantize"):
        more = np.ones(60_000_000, dtype=np.uint8)  # beyond what malloc ever serves from memory that was freed before
        del more
    with meter.phase("nothing"):
        pass
    first, second = meter.phases
    assert len(held)
    if first.added_rss_bytes is None:
        pytest.skip("this system does not let a process forget its peak")

    assert 59e6 < first.added_rss_bytes < 75e6
    assert second.added_rss_bytes is not None and second.added_rss_bytes < 5e6
    assert second.peak_rss_bytes is not None and first.peak_rss_bytes is not None
    assert second.peak_rss_bytes >= first.peak_rss_bytes > 110e6


def test_the_clock_set_back_changes_no_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    meter = Meter()
    with meter.phase("work"):
        time.sleep(0.01)

    assert meter.phases[0].seconds >= 0.01


def test_bytes_and_energy_are_summed_and_card_memory_is_the_larger() -> None:
    capture = CAPTURE.model_copy(
        update={"read_bytes": 100, "written_bytes": 7, "energy_j": 20.0, "device_peak_bytes": 900}
    )
    quantize = QUANTIZE.model_copy(
        update={"read_bytes": 0, "written_bytes": 1, "energy_j": 2.5, "device_peak_bytes": 300}
    )
    found = values(LOAD, capture, quantize)

    assert (found["quantize_read_bytes"], found["quantize_written_bytes"]) == (100, 8)
    assert (found["quantize_energy_j"], found["quantize_device_peak_bytes"]) == (22.5, 900)


def test_a_sum_is_absent_if_one_of_its_phases_was_not_measured() -> None:
    found = values(LOAD, CAPTURE, QUANTIZE.model_copy(update={"read_bytes": 5, "energy_j": 1.0}))

    assert not {"quantize_read_bytes", "quantize_energy_j", "quantize_device_peak_bytes"} & set(found)


@linux
def test_what_a_phase_writes_is_counted(tmp_path: Path) -> None:
    meter = Meter()
    with meter.phase("write"), (tmp_path / "file").open("wb") as file:
        file.write(bytes(3_000_000))
        file.flush()
        os.fsync(file.fileno())
    (phase,) = meter.phases
    if phase.written_bytes is None:
        assert phase.absent["written_bytes"] == NO_DISK_COUNTERS
    else:
        assert 3_000_000 <= phase.written_bytes < 4_000_000 or phase.written_bytes == 0  # a file system in memory


def test_a_system_without_counters_says_so_and_gives_no_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "disk_bytes", lambda: None)
    monkeypatch.setattr(phases, "energy_counter", lambda _device: PackageEnergy(Path("none")))
    meter = Meter()
    with meter.phase("work"):
        pass
    (phase,) = meter.phases

    assert (phase.read_bytes, phase.written_bytes, phase.energy_j, phase.device_peak_bytes) == (None, None, None, None)
    assert phase.absent == {
        "read_bytes": NO_DISK_COUNTERS,
        "written_bytes": NO_DISK_COUNTERS,
        "energy_j": "no energy counter: none has no RAPL zone",
    }


def test_energy_is_that_of_the_devices_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counter:
        source, reason = "a counter", None
        readings = iter([(100,), (350,)])

        def read(self) -> tuple[int, ...]:
            return next(self.readings)

        def joules(self, before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> float | None:
            return None if before is None or after is None else (after[0] - before[0]) / 10

    monkeypatch.setattr(phases, "energy_counter", lambda _device: Counter())
    meter = Meter()
    with meter.phase("work"):
        pass

    assert meter.phases[0].energy_j == 25.0 and "energy_j" not in meter.phases[0].absent


def test_phases_of_older_records_are_written_as_they_were_read() -> None:
    older = (
        '{"name":"load","seconds":1.0,"cpu_s":null,"added_rss_bytes":null,"noise":null,"repeated":[],'
        '"peak_rss_bytes":null,"shared":false}'
    )

    assert Phase.model_validate_json(older).model_dump_json() == older
    newer = LOAD.model_copy(update={"read_bytes": 0, "absent": {"energy_j": "none"}})
    assert Phase.model_validate_json(newer.model_dump_json()) == newer
