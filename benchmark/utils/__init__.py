"""General helpers that know nothing of the benchmark: errors, files, logs, progress, images. No torch."""
