"""Writing files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(source: Path, target: Path) -> None:
    """Renames `source` to `target`, replacing it, and makes the rename last through a power cut."""
    source.replace(target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Writes a text file through a temporary one, so that a reader sees the old text or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    replace_file(temporary, path)
