"""Modules that compute with quantized numbers: linears, their inputs, side branches, the key-value cache."""
