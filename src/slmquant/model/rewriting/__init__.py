"""Rewrites that preserve the function of a model: scales moved between layers, rotations of its stream."""
