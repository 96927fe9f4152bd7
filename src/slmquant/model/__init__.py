"""A model: where it comes from, what it is made of, how it is rewritten, how it computes and how it runs."""
