"""From a dataset to batches: index, pixel cache, loader."""
