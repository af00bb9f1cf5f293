"""Data pipeline from a dataset to batches: index, pixel cache, loader."""
