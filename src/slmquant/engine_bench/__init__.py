"""Measuring artifacts on engines: parity, speed, memory and energy, one process per engine."""
