"""Statistics over records, without torch: paired tests, intervals, scores, Pareto sets, early stopping."""
