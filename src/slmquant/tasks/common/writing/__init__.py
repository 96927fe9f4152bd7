"""Tasks in which a model writes text."""
