"""The tracks: compression (model quality) and consumption (time and memory of quantizing)."""
