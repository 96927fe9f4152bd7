"""Shared by tasks: the contract, suites, and the three kinds of tasks: texts, lm-eval's tasks, free writing."""
