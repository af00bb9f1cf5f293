"""The package itself: its version, and the folder that every path within it is relative to."""

from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parents[2]
