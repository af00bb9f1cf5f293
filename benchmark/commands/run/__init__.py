"""`chxbench run`: train and score a method."""
