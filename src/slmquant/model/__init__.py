"""Models: sources, discovery of their structure, rewriting, quantized computing, and running."""
