"""Modules that compute with quantized numbers: linears, activations, side branches, the key-value cache."""
