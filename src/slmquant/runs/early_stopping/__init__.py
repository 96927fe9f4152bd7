"""Cells that stop answering items once their ranking is decided (`--until-separated`)."""
