"""Runs plans: every cell in its own process, every outcome a row of the store."""
