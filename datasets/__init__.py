"""Datasets, one per file; every file here is imported and registers itself (see docs/datasets.md)."""
