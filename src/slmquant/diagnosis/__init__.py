"""Experiments that find out what a quantized model's divergence comes from."""
