"""The cache folder is found or chosen, marked, locked, and kept below its one limit."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from dbbd_cli.core.errors import DiskError
from dbbd_cli.core.temporary import discard, temporary_file, temporary_path
from dbbd_cli.data.cache import (
    MARK,
    cache_folder,
    disk_errors,
    entry_lock,
    fallback_note,
    is_cache_folder,
    make_room,
    mark_used,
)

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
    assert "is not writable" in fallback_note(None)


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
    assert "it is not private to this user" in caught.value.message
    assert "DBBD_CACHE_DIR" in caught.value.hint


def test_without_any_folder_for_temporary_files(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(no_home / "gone"))
    with pytest.raises(DiskError, match="No such file or directory"):
        cache_folder(None)


def entries(folder: Path) -> list[str]:
    """Names of the content of a cache folder, without its mark."""
    return sorted(path.name for path in folder.iterdir() if path.name != MARK)


def aged(path: Path, seconds: float, size: int = 100) -> None:
    """Writes a file that was last used a given number of seconds ago."""
    path.write_bytes(bytes(size))
    last_used = time.time() - seconds
    os.utime(path, (last_used, last_used))


def test_one_limit_holds_for_images_and_scenes_and_the_least_recently_used_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbbd_cli.data.cache.LIMIT_BYTES", 450)
    for age, name in enumerate(["images-a.u8", "scene-b.arrays", "images-c.json", "scene-d.arrays"]):
        aged(tmp_path / name, age)
    make_room(tmp_path, needed=50)
    assert len(entries(tmp_path)) == 4
    make_room(tmp_path, needed=51)
    assert entries(tmp_path) == ["images-a.u8", "images-c.json", "scene-b.arrays"]
    mark_used(tmp_path / "images-c.json")
    make_room(tmp_path, needed=300)
    assert entries(tmp_path) == ["images-c.json"]
    make_room(tmp_path, needed=10**6)  # more than the limit: everything else goes, and the file is written
    assert entries(tmp_path) == []


def test_files_that_will_be_needed_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbbd_cli.data.cache.LIMIT_BYTES", 0)
    for age, name in enumerate(["remote-a.tar", "remote-b.tar", "shard-c.arrays", "remote-d.lock"]):
        aged(tmp_path / name, age)
    with entry_lock(tmp_path / "remote-d.tar"):
        make_room(tmp_path, needed=1, keep=[tmp_path / "remote-b.tar"])
        assert entries(tmp_path) == ["remote-b.tar", "remote-d.lock"]


def test_files_that_are_not_of_the_cache_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbbd_cli.data.cache.LIMIT_BYTES", 0)
    for name in ("photo.png", "notes.json", "a.tmp", "mine.arrays", "mine.u8"):
        aged(tmp_path / name, 10**9)
    make_room(tmp_path, needed=1)
    assert entries(tmp_path) == ["a.tmp", "mine.arrays", "mine.u8", "notes.json", "photo.png"]


def test_a_file_that_another_process_removes_meanwhile_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbbd_cli.data.cache.LIMIT_BYTES", 200)
    for age, name in enumerate(["images-new.u8", "scene-old.arrays", "images-gone.u8"]):
        aged(tmp_path / name, age)
    listed = list(tmp_path.iterdir())
    (tmp_path / "images-gone.u8").unlink()
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(listed))
    make_room(tmp_path, needed=100)
    monkeypatch.undo()
    assert entries(tmp_path) == ["images-new.u8"]


def test_leftovers_of_killed_processes_go_and_files_in_use_stay(tmp_path: Path) -> None:
    temporary_path(tmp_path / "images-dead.u8").touch()
    (tmp_path / "images-dead.lock").touch()
    in_use = temporary_file(tmp_path / "scene-alive.arrays")
    with entry_lock(tmp_path / "scene-alive.arrays"):
        make_room(tmp_path, needed=1)
        assert entries(tmp_path) == [in_use.name, "scene-alive.lock"]
    assert entries(tmp_path) == [in_use.name]
    discard(in_use)


def test_a_cache_folder_is_marked_and_a_copy_of_it_is_not_taken_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    assert not is_cache_folder(folder)
    with entry_lock(folder / "scene-a.arrays"):
        assert is_cache_folder(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert not is_cache_folder(tmp_path / "copy")


def test_a_full_disk_names_the_folder_and_the_remedy(tmp_path: Path) -> None:
    message = re.escape(f"the cache {tmp_path} cannot be written: no space left")
    with pytest.raises(DiskError, match=message) as caught, disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "free some space" in caught.value.hint
