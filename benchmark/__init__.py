"""The harness: everything a method or a dataset does not have to know."""
