"""`chxbench baselines`: scores that need no network, the floors of a dataset's boards."""
