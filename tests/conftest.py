"""What holds for every test."""

import os

os.environ["COLUMNS"] = "200"  # tables as wide as in a pipe; pytest-xdist would narrow them to 80
