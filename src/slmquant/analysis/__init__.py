"""What records mean: paired tests, scores, Pareto sets, when to stop asking; arithmetic over records, without torch."""
