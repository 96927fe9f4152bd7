"""Which quantization of a model to ship: constraints, candidates, what records say of them, and the answer."""
