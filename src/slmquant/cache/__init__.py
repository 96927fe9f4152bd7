"""The cache: results that cells and runs share, checked when read, and bounded in size."""
