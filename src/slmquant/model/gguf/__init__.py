"""Facts about GGUF, shared by reading and writing: architectures, metadata, tokenizers."""
