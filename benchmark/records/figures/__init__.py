"""Figures of one record."""
