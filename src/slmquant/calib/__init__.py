"""Calibration data: text corpora, windows of tokens, and statistics of a model on them."""
