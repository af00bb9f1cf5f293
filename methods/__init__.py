"""One file a method; every file here is imported and registers itself (see CONTRIBUTING.md)."""
