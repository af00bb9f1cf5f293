"""`chxbench predict`: inference on images with a trained run."""
