"""Ways to run a model: block by block, only its head, or inputs with common prefixes as one tree."""
