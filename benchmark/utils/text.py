"""Text from a record or a file, made harmless for where it is shown: a terminal, a figure, Markdown."""

import html
import re
from collections.abc import Mapping
from pathlib import Path

# Control characters, and those that turn the direction of the text around them.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


# What begins HTML, a link, code, another cell or an escape in Markdown.
_MARKUP = re.compile(r"[<>\[\]`|\\]")


def title_problem(text: str) -> str | None:
    """Why a text cannot be a title, which people read in tables and figures; None if it can."""
    if not text.strip() or len(text) > 100:
        return "a title has 1 to 100 characters"
    if _UNSEEN.search(text):
        return "a title has no control characters"
    return "a title has none of the characters < > [ ] ` | \\" if _MARKUP.search(text) else None


def plain(text: object) -> str:
    """One line without control characters."""
    return _UNSEEN.sub(" ", str(text))


def escape(text: object) -> str:
    """Plain text in a Markdown table: no markup, no HTML."""
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", html.escape(plain(text), quote=False))


def code(text: object) -> str:
    """Inline code in a Markdown table, where no markup is read: only backticks and bars could end it or its cell."""
    return "`" + plain(text).replace("`", "'").replace("|", "\\|") + "`"


def display_name(finding: str) -> str:
    """Spell a finding's name as people read it: `Pleural_Thickening` becomes `Pleural Thickening`."""
    return finding.replace("_", " ")


def recipe_label(name: str) -> str:
    """Shorten a recipe's name for display: a file is shown without the folders it is in."""
    return Path(name).name


def changed_options(options: Mapping[str, object]) -> str:
    """Join options that differ from their defaults: `key=value, key=value`; empty if none does."""
    return ", ".join(f"{key}={value}" for key, value in options.items())
