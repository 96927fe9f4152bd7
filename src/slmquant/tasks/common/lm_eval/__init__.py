"""lm-eval's tasks, evaluated with slmquant's own backend."""
