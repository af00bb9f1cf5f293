"""Make text from records and names from disk safe to show, write or paste; display names and counts."""

import html
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

# Control characters, other ends of lines, and characters that change the direction of the text around them.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")

# What Python makes of bytes in a name that are not text in the file system's encoding; no encoding can write them.
_SURROGATE = re.compile(r"[\ud800-\udfff]")

# Characters that begin HTML, a link, code, a new cell or an escape in Markdown.
_MARKUP = re.compile(r"[<>\[\]`|\\]")

MAX_TITLE = 100  # characters
MAX_STEM = 180  # bytes: of the 255 that a name may have, endings and the numbers of equal stems need some


def title_problem(text: str) -> str | None:
    """Explain why a string cannot be a title, which is shown in tables and figures; None if it can."""
    if not text.strip() or len(text) > MAX_TITLE:
        return f"a title has 1 to {MAX_TITLE} characters"
    if plain(text) != text:
        return "a title has no control characters"
    return "a title has none of the characters < > [ ] ` | \\" if _MARKUP.search(text) else None


def encodable(text: object) -> str:
    r"""Convert to text that UTF-8 can hold: bytes of a name that are not text are spelled `\xf6`."""
    return _SURROGATE.sub(lambda found: ascii(found[0])[1:-1].replace("\\udc", "\\x"), str(text))


def plain(text: object) -> str:
    """Convert to one line that can be encoded, without control characters."""
    return _INVISIBLE.sub(" ", encodable(text))


def shell_word(text: object) -> str:
    r"""Quote for a POSIX shell, so that a printed command can be pasted; bytes that cannot be printed as `$'\xf6'`."""

    def spell(char: str) -> str:
        if char in "\\'":
            return f"\\{char}"
        return char if _is_printable(char) else "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))

    word = str(text)
    return shlex.quote(word) if all(map(_is_printable, word)) else f"$'{''.join(map(spell, word))}'"


def file_stem(name: str) -> str:
    """Return the stem of files about a file of any name: it can be shown, and endings can be appended to it."""
    stem = plain(Path(name).stem).replace("\\", "_")
    encoding = sys.getfilesystemencoding()
    return stem.encode(encoding, "replace")[:MAX_STEM].decode(encoding, "ignore").replace("?", "_")


def same_file_key(name: str) -> str:
    """Return what two names have in common if some file system takes them for one."""
    return unicodedata.normalize("NFC", name).casefold()


def escape(text: object) -> str:
    """Escape plain text for a Markdown table: neither markup nor HTML remains."""
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", html.escape(plain(text), quote=False))


def link(text: str, path: str) -> str:
    """Format a Markdown link, or with `!` before it a picture, to a file of any name relative to the page."""
    return f"[{text}]({quote(os.fsencode(path))})"


def code(text: object) -> str:
    """Format as inline code in a Markdown table, where only backticks and bars could end the code or its cell."""
    return "`" + plain(text).replace("`", "'").replace("|", "\\|") + "`"


def display_name(finding: str) -> str:
    """Spell a finding's name as people read it: `Pleural_Thickening` becomes `Pleural Thickening`."""
    return plain(finding).replace("_", " ")


def rare_label(rare: Sequence[str]) -> str | None:
    """Label the mean without a dataset's rare findings, below "Mean": `Without Hernia`; None if no finding is rare."""
    if not rare:
        return None
    return f"Without {display_name(rare[0])}" if len(rare) == 1 else "Without rare findings"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Format a number with its noun: `1 image`, `3 images`, `12,000 images`.

    Args:
        number: number to print.
        noun: singular of the noun.
        plural: plural of the noun; None to append an "s".
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def recipe_label(name: str) -> str:
    """Shorten a recipe's name for display: a path becomes the file's name."""
    return Path(name).name


def changed_options(options: Mapping[str, object]) -> str:
    """Join options that differ from their defaults: `key=value, key=value`; empty if none does."""
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _is_printable(char: str) -> bool:
    """Return whether a terminal shows a character: one that is visible, in the encoding of standard output."""
    try:
        char.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return char.isprintable()
