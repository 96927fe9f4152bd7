"""The machine: its processor and clock, meters of memory, load and energy, its limits, processes for isolated work."""
