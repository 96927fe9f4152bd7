"""What tasks share: the contract, names of suites, and the three kinds: texts, lm-eval's tasks, free writing."""
