"""Ways to run a model: block after block, its head alone, inputs that begin alike as one tree."""
