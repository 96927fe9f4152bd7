"""Artifacts measured on engines: parity, speed, memory and energy, each engine in a process of its own."""
