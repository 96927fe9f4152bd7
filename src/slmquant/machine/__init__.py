"""The machine: environment, clock, meters of memory, load and energy, performance limits, isolated processes."""
