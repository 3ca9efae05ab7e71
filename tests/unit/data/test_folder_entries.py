"""System files are recognized as such, and files in unsupported formats are counted in a warning."""

import pytest

from dbbd_cli.core.progress import Silent
from dbbd_cli.data.folder_entries import is_system_entry, warn_of_unread


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "__MACOSX", ".AppleDouble", "$RECYCLE.BIN", "lost+found", ".ipynb_checkpoints", "._x.jpg"),
        *("#snapshot", "@tmp", "@Recently-Snapshot", "RECYCLED", "found.000", "Network Trash Folder", "Thumbs.db"),
    ],
)
def test_files_and_folders_of_systems_are_not_data(name: str) -> None:
    assert is_system_entry(name)


@pytest.mark.parametrize("name", ["cat", "recycle", "found", "MACOSX", "thumbs.png", "1.jpg"])
def test_other_names_may_be_data(name: str) -> None:
    assert not is_system_entry(name)


class _Warnings(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def test_unsupported_formats_are_counted_by_suffix() -> None:
    progress = _Warnings()
    warn_of_unread({".heic": 1200, ".arw": 1}, "image", progress)
    warn_of_unread({".psd": 1}, "image", progress)
    warn_of_unread({}, "image", progress)
    assert progress.texts == [
        "1,201 images in unsupported formats were skipped: 1 .arw, 1,200 .heic.",
        "1 image in unsupported formats was skipped: 1 .psd.",
    ]
