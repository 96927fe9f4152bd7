"""Facts of the GGUF format that reading and writing share: architectures, metadata, tokenizers."""
