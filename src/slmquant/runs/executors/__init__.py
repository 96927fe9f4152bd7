"""Executors: where the stages of a run are computed, here or on a cluster."""
