from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from dbbd_cli.core.errors import DiskError
from dbbd_cli.data.cache import cache_folder, fallback_note

pytestmark = pytest.mark.skipif(os.name != "posix", reason="homes and owners of POSIX")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder next to a temporary folder, with no cache folder configured."""
    for name in ("DBBD_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "home"


@pytest.fixture
def no_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for a user without a home; the folder for temporary files."""

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    return home.parent / "tmp"


def test_the_usual_folder(home: Path) -> None:
    assert cache_folder(None).is_relative_to(home)
    assert fallback_note(None) == ""


def test_a_chosen_folder(home: Path, no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("/x") == Path("/x")
    monkeypatch.setenv("DBBD_CACHE_DIR", "~/caches")
    assert cache_folder(None) == home / "caches"
    assert fallback_note(None) == fallback_note("/x") == ""


def test_without_a_home_it_is_a_folder_of_the_users_own_among_temporary_files(no_home: Path) -> None:
    folder = cache_folder(None)
    assert folder == no_home / f"dbbd-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder(None) == folder
    assert fallback_note(None) == (
        f"Prepared data is kept in {folder}, because there is no home folder. "
        "To choose a folder, use --set data.cache_dir=DIR or DBBD_CACHE_DIR."
    )


def test_without_a_writable_home_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("HOME", str(home / "file"))
    folder = cache_folder(None)
    assert folder.parent == home.parent / "tmp"
    assert "cannot be written to" in fallback_note(None)


@pytest.mark.parametrize("kind", ["link", "file", "writable by others", "of somebody else"])
def test_files_of_other_users_are_refused(
    kind: str, no_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = no_home / f"dbbd-{os.getuid()}"
    if kind == "link":
        trap.symlink_to(tmp_path)
    elif kind == "file":
        trap.touch()
    else:
        trap.mkdir(mode=0o700)
    if kind == "writable by others":
        trap.chmod(0o777)
    if kind == "of somebody else":
        trap.rename(no_home / f"dbbd-{os.getuid() + 1}")
        user = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: user)
    with pytest.raises(DiskError, match=re.escape(str(no_home / "dbbd-"))) as caught:
        cache_folder(None)
    assert "it is not a folder of this user alone" in caught.value.message
    assert "DBBD_CACHE_DIR" in caught.value.hint


def test_without_any_folder_for_temporary_files(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(no_home / "gone"))
    with pytest.raises(DiskError, match="No such file or directory"):
        cache_folder(None)
