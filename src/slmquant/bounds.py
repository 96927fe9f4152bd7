"""How much may be asked for: beyond these a wish is a slip of the keyboard, and is refused before anything is done."""

LARGEST_SEED = 2**32 - 1
"""What every generator of random numbers here takes."""
MOST_SAMPLES = 1_000_000
"""Windows of calibration text."""
SHORTEST_WINDOW, LONGEST_WINDOW = 8, 1_000_000
"""Tokens in a window of calibration text."""
MOST_ITEMS = 1_000_000_000
"""Items of a task, or windows of a text."""
LONGEST_S = 10_000_000.0
"""Seconds that anything may be given: about four months."""
MOST_ROUNDS = 10_000
"""Timed passes of an engine."""
MOST_TOKENS = 1_000_000
"""Tokens of an answer, or of a context."""
MOST_THREADS = 4096
LONGEST_NAME = 1000
"""Characters of a name or a path."""
