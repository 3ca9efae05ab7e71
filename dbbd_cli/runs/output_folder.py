"""The folder that `predict` writes files to."""

from __future__ import annotations

from pathlib import Path


class OutputFolder:
    """A folder in which each input of a call has names of its own.

    Args:
        path: the folder, which is created when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._taken: set[str] = set()

    def claim(self, name: str) -> Path:
        """Return a path in the folder, without a suffix, that no other input has; later ones of a name are numbered.

        Args:
            name: relative path without a suffix, such as `site/scan-features`.
        """
        unique, number = name, 1
        while unique.casefold() in self._taken:
            number += 1
            unique = f"{name}-{number}"
        self._taken.add(unique.casefold())
        return self.path / unique
