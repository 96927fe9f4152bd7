"""For tests: contracts of plug-ins, tiny models of every architecture, and slow oracles of every solver."""
