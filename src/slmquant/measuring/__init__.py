"""Measures what records lack for a recommendation, and makes what was recommended."""
