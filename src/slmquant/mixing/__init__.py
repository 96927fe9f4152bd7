"""Mixtures that are chosen: which type each weight of a model gets under a number of bytes."""
