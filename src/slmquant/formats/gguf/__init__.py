"""GGUF: one file for llama.cpp and software built on it."""

from slmquant.formats.gguf.writer import FORMAT as FORMAT
