"""What is done: plans of cells, each run in a process of its own, each ending as a row."""
