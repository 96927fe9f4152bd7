"""Upper limits for options; a larger value is taken for a typing error and rejected before any work."""

LARGEST_SEED = 2**32 - 1
"""Largest seed that every random number generator used here accepts."""
MOST_SAMPLES = 1_000_000
"""Most windows of calibration text."""
SHORTEST_WINDOW, LONGEST_WINDOW = 8, 1_000_000
"""Fewest and most tokens in a window of calibration text."""
MOST_ITEMS = 1_000_000_000
"""Most items of a task, or windows of a text."""
LONGEST_S = 10_000_000.0
"""Longest time limit in seconds: about four months."""
LEAST_MEMORY = 500_000_000
"""Smallest memory limit of a cell, in bytes: what torch itself takes, and a little more."""
MOST_ROUNDS = 10_000
"""Most timed passes of an engine."""
MOST_TOKENS = 1_000_000
"""Most tokens of an answer, or of a context."""
MOST_THREADS = 4096
LONGEST_NAME = 1000
"""Most characters of a name or a path."""
