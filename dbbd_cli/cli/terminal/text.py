"""Text for the terminal: names made safe to print, times and speeds, and rows of names and values."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from dbbd_cli.core.text import printable


def clean(text: str) -> str:
    """The text, which may have several lines, with control and invisible characters as escapes."""
    return printable(text, keep="\n")


def clean_line(text: str) -> str:
    """The text on one line, with line breaks, control and invisible characters as escapes."""
    return printable(text)


def duration(seconds: float) -> str:
    """A duration: `12.3 s`, `7.4 min`, `2.3 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def time_left(seconds: float) -> str:
    """Time left as on a clock: `0:09 left`, `1:23 left`, `2:01:07 left`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"


def per_second(rate: float) -> str:
    """A speed: `15.8`, `1,234`."""
    return f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"


def wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """The text in indented lines of at most `width`, or longer if a single word, such as a path, is longer.

    Words are never broken, so that they can be copied.
    """
    if width is None:
        return [indent + line for line in text.split("\n")]
    wrapper = textwrap.TextWrapper(
        width=max(width, len(indent) + 12),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line for paragraph in text.split("\n") for line in (wrapper.wrap(paragraph) or [indent])]


def pairs(rows: Mapping[str, str] | Iterable[tuple[str, str]], width: int | None) -> list[tuple[str, str]]:
    """Names and values in two columns: for each line, the padded name and the part of the value on that line.

    Args:
        rows: names with their values; a value may have several lines.
        width: width of the terminal; None: any length.
    """
    entries = [
        (clean_line(name), clean(value)) for name, value in (rows.items() if isinstance(rows, Mapping) else rows)
    ]
    name_width = max((len(name) for name, _ in entries), default=0)
    room = None if width is None else width - name_width - 4
    lines = []
    for name, value in entries:
        for index, part in enumerate(wrapped(value, room)):
            lines.append((f"  {name if index == 0 else '':<{name_width}}  ", part))
    return lines
