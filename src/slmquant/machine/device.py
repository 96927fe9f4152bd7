"""Meters of the computing device: its energy, and memory on a graphics card."""

from __future__ import annotations

from slmquant.machine.energy import CardEnergy, EnergyCounter, PackageEnergy


def is_card(device: str) -> bool:
    """Whether a torch device is a graphics card."""
    return device.startswith("cuda")


def energy_counter(device: str) -> EnergyCounter:
    """The energy counter of a torch device: of the card, or of the processor packages."""
    if not is_card(device):
        return PackageEnergy()
    import torch

    return CardEnergy(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def forget_device_peak(device: str) -> None:
    """Reset the peak that `device_peak_bytes` reads."""
    if is_card(device):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def device_peak_bytes(device: str) -> int | None:
    """Peak memory that torch allocated on a card since `forget_device_peak`; None on other devices."""
    if not is_card(device):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
