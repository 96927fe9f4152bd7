"""Rewrites that leave what a model computes as it is: scales moved between layers, rotations of its stream."""
