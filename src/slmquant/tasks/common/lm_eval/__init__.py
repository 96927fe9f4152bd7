"""Tasks as lm-eval defines them, answered by our own backend."""
