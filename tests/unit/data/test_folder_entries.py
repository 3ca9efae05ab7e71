"""Leftovers of systems and programs, and the warning about formats that are not read."""

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
def test_leftovers_of_systems_and_programs_are_no_data(name: str) -> None:
    assert is_system_entry(name)


@pytest.mark.parametrize("name", ["cat", "recycle", "found", "MACOSX", "thumbs.png", "1.jpg"])
def test_names_that_people_choose_are(name: str) -> None:
    assert not is_system_entry(name)


class _Warnings(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def test_formats_that_are_not_read_are_counted_and_named() -> None:
    progress = _Warnings()
    warn_of_unread({".heic": 1200, ".arw": 1}, "image", progress)
    warn_of_unread({".psd": 1}, "image", progress)
    warn_of_unread({}, "image", progress)
    assert progress.texts == [
        "1,201 images in formats that are not read were left out: 1 .arw, 1,200 .heic.",
        "1 image in formats that are not read was left out: 1 .psd.",
    ]
