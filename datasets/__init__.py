"""One file a dataset; every file here is imported and registers itself (see CONTRIBUTING.md)."""
