"""How quantized models lie on disk: one file, one format."""
