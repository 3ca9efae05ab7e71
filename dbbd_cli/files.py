"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from typing import TextIO


def replace_file(source: Path, target: Path) -> None:
    """Renames `source` to `target`, replacing it, and makes the rename last through a power cut."""
    source.replace(target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file through a temporary one, so that a reader sees the old content or the new, never a part."""
    # A name of its own: what lies in the folder under a fixed one could be a link that leads elsewhere.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def open_to_append(path: Path) -> TextIO:
    """Opens a text file at its end.

    Raises:
        OSError: it is a link, which could lead anywhere, or cannot be written.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and links are not followed", str(path))
    return path.open("a", encoding="utf-8", newline="\n")
