"""What counters say of energy is read as it is meant, and what cannot be read is absent with a reason."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from slmquant.machine.energy import CardEnergy, PackageEnergy


def zone(root: Path, zone: str, joules: float, span: float = 100.0, name: str = "package-0") -> Path:
    folder = root / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    (folder / "max_energy_range_uj").write_text(f"{span * 1e6:.0f}\n")
    return folder


def test_energy_adds_packages_and_survives_a_counter_that_begins_anew(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 10)
    zone(tmp_path, "intel-rapl:1", 95)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of package 0 is in it already
    zone(tmp_path, "intel-rapl:2", 7, name="psys")  # of the whole platform, packages included
    counter = PackageEnergy(tmp_path)
    before = counter.read()
    zone(tmp_path, "intel-rapl:0", 12)
    zone(tmp_path, "intel-rapl:1", 3)

    assert counter.reason is None
    assert counter.joules(before, counter.read()) == pytest.approx(2 + 8)


def test_energy_that_cannot_be_read_is_absent_with_a_reason(tmp_path: Path) -> None:
    counter = PackageEnergy(tmp_path / "none")
    assert counter.read() is None and counter.joules(None, None) is None
    assert counter.reason is not None and "no RAPL zone" in counter.reason

    (zone(tmp_path, "intel-rapl:0", 1) / "energy_uj").write_text("forbidden")
    broken = PackageEnergy(tmp_path)
    assert broken.read() is None
    assert broken.reason is not None and "cannot be read" in broken.reason


class NoSuchCard(Exception):
    """As NVML says it."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A driver with one card, and its counter in millijoules."""
    counter = [7_000_000]

    def handle(uuid: str) -> str:
        if uuid != "GPU-1":
            raise NoSuchCard("Not Found")
        return uuid

    module = ModuleType("pynvml")
    module.NVMLError = NoSuchCard  # type: ignore[attr-defined]
    module.nvmlInit = lambda: None  # type: ignore[attr-defined]
    module.nvmlDeviceGetHandleByUUID = handle  # type: ignore[attr-defined]
    module.nvmlDeviceGetTotalEnergyConsumption = lambda card: counter[0]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return counter


def test_a_card_counts_in_millijoules(nvml: list[int]) -> None:
    counter = CardEnergy("GPU-1")
    before = counter.read()
    nvml[0] += 2_500

    assert counter.reason is None and "GPU-1" in counter.source
    assert counter.joules(before, counter.read()) == pytest.approx(2.5)


def test_a_card_that_the_driver_does_not_know_is_absent_with_a_reason(nvml: list[int]) -> None:
    counter = CardEnergy("GPU-2")

    assert counter.read() is None and counter.joules(None, None) is None
    assert counter.reason is not None and "GPU-2 cannot be read (Not Found)" in counter.reason


def test_without_its_library_a_card_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    counter = CardEnergy("GPU-1")

    assert counter.read() is None
    assert counter.reason is not None and "pip install 'slmquant[nvml]'" in counter.reason
