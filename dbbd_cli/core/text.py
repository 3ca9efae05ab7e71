"""Text for the terminal: untrusted text, such as file and class names, made safe; counts in words."""

from __future__ import annotations

import unicodedata

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of invisible characters, which a terminal may obey or which change the writing direction."""
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Characters of other categories that look blank."""


def printable(text: str, *, keep: str = "") -> str:
    """Return the text with every character that could mislead a reader or a terminal escaped, such as `\\x1b`.

    Args:
        text: any text.
        keep: characters to leave unchanged, such as the line feeds of a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(escaped(char) if char not in keep and _is_invisible(char) else char for char in text)


def counted(count: int, noun: str) -> str:
    """Return a number with a noun, given in the singular: "1 image", "1,201 images" or "0 batches"."""
    ending = "es" if noun.endswith(("s", "ch", "sh", "x")) and not noun.endswith("epoch") else "s"
    return f"{count:,} {noun if count == 1 else noun + ending}"


def capitalized(words: str) -> str:
    """Return words with a capital at the start, the other letters as they are: `URLs`, not `Urls`."""
    return words[:1].upper() + words[1:]


def escaped(char: str) -> str:
    """Return one character in Python's ASCII notation, such as `\\x1b` or `\\u202e`."""
    return char.encode("unicode_escape").decode("ascii")


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in _INVISIBLE or char in _BLANK_LETTERS
