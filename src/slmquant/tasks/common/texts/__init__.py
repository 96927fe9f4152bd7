"""Tasks on texts: perplexity, and divergence from full precision."""
