"""Where the pictures of a run's classes are now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.data.manifest import Manifest


class FolderSettings(Protocol):
    """The settings that name folders of pictures."""

    @property
    def source(self) -> str:
        """The source."""
        ...

    @property
    def path(self) -> str | None:
        """The folder of all classes (source folder)."""
        ...

    @property
    def classes(self) -> Mapping[str, str] | None:
        """Folder by class name (source classes)."""
        ...


def class_folders(data: FolderSettings, manifest: Manifest) -> list[Path]:
    """Return the folders of a manifest's classes according to the configuration; they may have moved.

    Returns:
        The folders in the order of the classes; none if the samples are URLs.

    Raises:
        ConfigError: the classes of the configuration are not those of the manifest.
    """
    if data.source == "folder" and data.path is not None:
        return [Path(data.path) / name for name in manifest.classes]
    if data.source == "classes" and data.classes is not None:
        if set(data.classes) != set(manifest.classes):
            named = ", ".join(manifest.classes[:8]) + (", …" if len(manifest.classes) > 8 else "")
            raise ConfigError(
                f"data.classes: the run has the classes {named}",
                hint="set a folder for each of these classes and no others",
            )
        return [Path(data.classes[name]) for name in manifest.classes]
    return []
