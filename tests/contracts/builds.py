"""Architectures that stand for others of their build; the slow tier tries all."""

TYPICAL = ("llama", "qwen3", "gemma2", "phi3", "gpt2", "opt", "gpt_neox", "olmo2", "lfm2", "qwen2_moe", "mamba")
"""One architecture of each build."""
