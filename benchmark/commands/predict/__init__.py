"""`chxbench predict`: inference on images from a finished run."""
