"""`chxbench score`: evaluate external predictions."""
