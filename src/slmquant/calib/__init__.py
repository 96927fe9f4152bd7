"""What a method may look at: corpora, windows, and what a model does on them."""
