"""A checkpoint in hand: where it comes from, what it is, and its parts. `loading.load` is the door."""
