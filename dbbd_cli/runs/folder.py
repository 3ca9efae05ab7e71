"""The folder of a run: the names of its files, its creation, and its lock."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dbbd_cli.core.errors import ConfigError, DiskError, InUseError
from dbbd_cli.core.files import nearest_existing, read_file, write_text
from dbbd_cli.core.temporary import hold_folder, release, remove_strays, temporary_path
from dbbd_cli.core.text import printable

CONFIG = "config.yaml"
SPLITS = "splits.json"
ENVIRONMENT = "environment.json"
HISTORY = "history.jsonl"
LOG = "run.log"
CALIBRATION = "calibration.json"
PREDICTIONS = "predictions"
FIGURE = "training_history.png"
SYNTHETIC_NOTE = "SYNTHETIC_DATA.txt"
LOCK = "run.lock"
OWNER = "run.owner"
HINT_RUNS_DIR = "set run.runs_dir to a folder that can be written"


def is_run_folder(folder: Path) -> bool:
    """Whether a folder is a run folder, even if its list of samples is missing."""
    return (folder / SPLITS).exists() or all((folder / name).exists() for name in (CONFIG, ENVIRONMENT))


def check_run_folder(runs_dir: Path, name: str) -> None:
    """Check that a run folder can be created, before anything expensive is done.

    Raises:
        ConfigError: the name cannot be part of a folder's name.
        DiskError: the folder cannot be created.
    """
    fits = re.fullmatch(r"[\w][\w .+=@-]{0,99}", name) and printable(name) == name
    if not fits or name != name.rstrip(" ."):
        raise ConfigError(
            f"run.name: {name!r} cannot be part of a folder's name",
            hint="use letters, digits and . _ - only, starting with a letter or digit",
        )
    if name.casefold().endswith(".tmp"):
        raise ConfigError(
            f"run.name: {name!r} ends like the name of a temporary file",
            hint="choose a name that does not end with .tmp",
        )
    existing = nearest_existing(runs_dir)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise DiskError(f"no folder can be created in {existing}", hint=HINT_RUNS_DIR)


def create_run_folder(runs_dir: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Create `<runs_dir>/<time>-<name>`, a new folder, with its first content or not at all.

    Whatever happens, there is never a run folder that cannot be resumed.

    Args:
        runs_dir: its parent folder.
        name: name of the run.
        fill: writes the first content, at least one file, into a temporary folder that becomes the run folder.

    Raises:
        ConfigError: the name cannot be part of a folder's name.
        DiskError: the folder cannot be created.
    """
    check_run_folder(runs_dir, name)
    draft = temporary_path(runs_dir / f".{name}")
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        remove_strays(runs_dir)
        hold_folder(draft)
    except OSError as error:
        raise DiskError(f"no run folder can be created in {runs_dir}: {error.strerror}", hint=HINT_RUNS_DIR) from error
    try:
        fill(draft)
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
        for attempt in range(1000):
            folder = runs_dir / (stem if attempt == 0 else f"{stem}-{attempt + 1}")
            try:
                return draft.rename(folder)
            except OSError as error:
                if not folder.exists():
                    raise DiskError(
                        f"the run folder {folder} cannot be created: {error.strerror}", hint=HINT_RUNS_DIR
                    ) from error
        raise DiskError(f"the run folder {runs_dir / stem} cannot be created", hint=HINT_RUNS_DIR)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        release(draft)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the run folder for this process; the system releases the lock even if the process is killed.

    Raises:
        InUseError: another process has locked it.
        DiskError: the folder cannot be written to.
    """
    lock = FileLock(folder / LOCK)
    try:
        _acquire(lock, folder)
    except OSError as error:
        raise DiskError(
            f"the run folder {folder} cannot be written: {error.strerror}", hint="check its permissions"
        ) from error
    try:
        with suppress(OSError):  # the disk may be full
            write_text(folder / OWNER, f"process {os.getpid()} on {platform.node()}\n")
        for place in (folder, folder.parent):
            remove_strays(place)
        yield
    finally:
        with suppress(OSError):
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> None:
    """Take the lock. If its owner is dead, wait until its worker processes, which hold it too, are gone."""
    for attempt in range(200):
        try:
            lock.acquire(timeout=0)
            return
        except Timeout as error:
            owner = _living_owner(folder)
            if owner is not None or attempt == 199:
                hint = "wait until it ends, or stop it with Ctrl-C"
                if owner is None:
                    hint += f"; if no process uses it, as after copying it from another system, remove its {LOCK}"
                raise InUseError(
                    f"the run folder {folder} is in use by {owner or 'another process'}", hint=hint
                ) from error
        time.sleep(0.05)


def _living_owner(folder: Path) -> str | None:
    """Who has locked the run folder, in words.

    An owner writes the file just after taking the lock; before that, it may be missing or name a dead process.
    """
    import psutil

    with suppress(OSError, ValueError):
        owner = read_file(folder / OWNER).decode("utf-8").strip()
        found = re.fullmatch(r"process (\d{1,10}) on (.*)", owner, re.DOTALL)
        if found is None:
            return None
        with suppress(psutil.NoSuchProcess):
            if found[2] != platform.node() or psutil.Process(int(found[1])).status() != psutil.STATUS_ZOMBIE:
                return owner
    return None
