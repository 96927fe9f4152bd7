"""Texts that a model must predict: perplexity, and divergence from full precision."""
