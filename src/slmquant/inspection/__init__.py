"""Inspection of a full-precision model: what it is made of, and what its weights and activations look like."""
