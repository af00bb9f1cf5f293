"""`chxbench compare`: paired comparison of two runs."""
