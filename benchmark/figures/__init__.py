"""Figures; each carries the hash of what it shows."""
