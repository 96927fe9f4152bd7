"""What `slmquant inspect` looks at unless it is told otherwise; apart, as importing it costs nothing."""

SCHEMES = ("W8A16", "W4A16g32", "W4A16g32E8")
"""Schemes that sizes are shown for, beside 16 bits."""
WINDOWS, WINDOW_TOKENS = 8, 512
"""Windows of text that activations are measured on, and their tokens."""
