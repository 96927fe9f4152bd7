"""Shared by engines: the contract, torch sessions, llama.cpp's server."""
