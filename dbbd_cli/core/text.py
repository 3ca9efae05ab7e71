"""Text from outside, such as names of files and classes, made safe to show wherever it is shown."""

from __future__ import annotations

import unicodedata

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that no one sees, and that a terminal may obey or that turn the direction of writing."""
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Characters of other categories that look like nothing."""
_JOINERS = "\u200c\u200d"


def printable(text: str, *, keep: str = "") -> str:
    """The text with every character that could mislead a reader or a terminal as an escape, such as `\\x1b`.

    Args:
        text: any text.
        keep: characters that are left as they are, such as the line feed of a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char in keep or not _is_invisible(char, before) else escaped(char)
        for before, char in zip(" " + text, text, strict=False)
    )


def counted(count: int, sample_unit: str) -> str:
    """A number with its sample_unit, such as "1 image", "1,201 images" or "0 batches".

    Args:
        count: the number.
        sample_unit: the sample_unit in the singular.
    """
    ending = "es" if sample_unit.endswith(("s", "ch", "sh", "x")) and not sample_unit.endswith("epoch") else "s"
    return f"{count:,} {sample_unit if count == 1 else sample_unit + ending}"


def escaped(char: str) -> str:
    """One character in Python's ASCII notation, such as `\\x1b` or `\\u202e`."""
    return char.encode("unicode_escape").decode("ascii")


def _is_invisible(char: str, before: str) -> bool:
    if char in _JOINERS:
        # They belong to the spelling of scripts without capitals, and to emoji; elsewhere they hide.
        return unicodedata.category(before) not in ("Lo", "Mc", "Mn", "So", "Sk")
    return unicodedata.category(char) in _INVISIBLE or char in _BLANK_LETTERS
