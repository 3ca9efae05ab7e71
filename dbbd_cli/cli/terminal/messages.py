"""Facts, lines and warnings on standard error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

import typer

from dbbd_cli.cli.terminal.streams import best_effort, colored, columns
from dbbd_cli.cli.terminal.text import clean, clean_line, pairs, wrapped


class Messages:
    """Writes messages to a stream, in color if it shows colors.

    Args:
        stream: where to write.
        only_warnings: write nothing but warnings.
    """

    def __init__(self, stream: TextIO, *, only_warnings: bool = False) -> None:
        self._stream = stream
        self._only_warnings = only_warnings

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Write the title, and below it names and values in two columns."""
        if not self._only_warnings:
            lines = [self._styled(name, fg="cyan") + value for name, value in pairs(rows, columns(self._stream))]
            self._write("\n".join([self._styled(clean_line(title), bold=True), *lines]))

    def line(self, text: str) -> None:
        """Write the text."""
        if not self._only_warnings:
            self._write("\n".join(wrapped(clean(text), columns(self._stream))))

    def warn(self, text: str) -> None:
        """Write the text as a warning."""
        label = "Warning:"
        message = "\n".join(wrapped(f"{label} {clean(text)}", columns(self._stream)))
        self._write(self._styled(label, fg="yellow", bold=True) + message.removeprefix(label))

    def _styled(self, text: str, **style: Any) -> str:
        return typer.style(text, **style) if colored(self._stream) else text

    def _write(self, text: str) -> None:
        with best_effort(self._stream):
            self._stream.write(text + "\n")
            self._stream.flush()
