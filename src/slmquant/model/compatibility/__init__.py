"""Differences between versions and model families of transformers."""
