"""Contracts that every plug-in is held to, tiny models of every architecture, and slow oracles of every solver."""
