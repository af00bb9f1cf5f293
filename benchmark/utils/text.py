"""Text from a record or a file, made safe for where it is shown (a terminal, a figure, Markdown), and display names."""

import html
import re
from collections.abc import Mapping
from pathlib import Path

# Control characters, and those that change the direction of the text around them.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")

# What begins HTML, a link, code, another cell or an escape in Markdown.
_MARKUP = re.compile(r"[<>\[\]`|\\]")

MAX_TITLE = 100  # characters


def title_problem(text: str) -> str | None:
    """Explain why a text cannot be a title, which is shown in tables and figures; None if it can."""
    if not text.strip() or len(text) > MAX_TITLE:
        return f"a title has 1 to {MAX_TITLE} characters"
    if _INVISIBLE.search(text):
        return "a title has no control characters"
    return "a title has none of the characters < > [ ] ` | \\" if _MARKUP.search(text) else None


def plain(text: object) -> str:
    """Convert to one line without control characters."""
    return _INVISIBLE.sub(" ", str(text))


def escape(text: object) -> str:
    """Escape plain text for a Markdown table: neither markup nor HTML remains."""
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", html.escape(plain(text), quote=False))


def code(text: object) -> str:
    """Format as inline code in a Markdown table, where only backticks and bars could end the code or its cell."""
    return "`" + plain(text).replace("`", "'").replace("|", "\\|") + "`"


def display_name(finding: str) -> str:
    """Spell a finding's name as people read it: `Pleural_Thickening` becomes `Pleural Thickening`."""
    return finding.replace("_", " ")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Format a number with its noun: `1 image`, `3 images`, `12,000 images`.

    Args:
        number: how many there are.
        noun: in the singular.
        plural: of the noun; None to append an "s".
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def recipe_label(name: str) -> str:
    """Shorten a recipe's name for display: a file is shown without the folders it is in."""
    return Path(name).name


def changed_options(options: Mapping[str, object]) -> str:
    """Join options that differ from their defaults: `key=value, key=value`; empty if none does."""
    return ", ".join(f"{key}={value}" for key, value in options.items())
