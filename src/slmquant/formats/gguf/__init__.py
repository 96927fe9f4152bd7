"""GGUF: one file for llama.cpp and what is built on it."""

from slmquant.formats.gguf.writer import FORMAT as FORMAT
