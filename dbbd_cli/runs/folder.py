"""The folder of a run: its files, its lock and its logs."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dbbd_cli.core.errors import ConfigError, DiskError, InUseError
from dbbd_cli.core.files import (
    nearest_existing,
    open_to_append,
    read_file,
    read_lines,
    write_text,
)
from dbbd_cli.core.temporary import hold_folder, release, remove_strays, temporary_path
from dbbd_cli.core.text import printable
from dbbd_cli.runs.event_files import add_hyperparameters, open_event_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CONFIG = "config.yaml"
SPLITS = "splits.json"
ENVIRONMENT = "environment.json"
HISTORY = "history.jsonl"
LOG = "run.log"
LOCK = "run.lock"
OWNER = "run.owner"
HINT_RUNS_DIR = "set run.runs_dir to a folder that can be written"


def is_run_folder(folder: Path) -> bool:
    """Whether a folder is a run folder, even if its list of samples is lost."""
    return (folder / SPLITS).exists() or all((folder / name).exists() for name in (CONFIG, ENVIRONMENT))


def check_run_folder(runs_dir: Path, name: str) -> None:
    """Finds out whether a run folder can be made, before anything expensive is done.

    Raises:
        ConfigError: the name is not fit to be part of a folder's name.
        DiskError: the folder cannot be made.
    """
    fits = re.fullmatch(r"[\w][\w .+=@-]{0,99}", name) and printable(name) == name
    if not fits or name != name.rstrip(" ."):
        raise ConfigError(
            f"run.name: {name!r} cannot be part of a folder's name",
            hint="use letters, digits and . _ - only, starting with a letter or digit",
        )
    if name.casefold().endswith(".tmp"):
        raise ConfigError(
            f"run.name: {name!r} ends like the name of a file that was not finished",
            hint="choose a name that does not end with .tmp",
        )
    existing = nearest_existing(runs_dir)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise DiskError(f"no folder can be made in {existing}", hint=HINT_RUNS_DIR)


def create_run_folder(runs_dir: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Makes `<runs_dir>/<time>-<name>`, a folder that was not there before, with its first content or not at all.

    Whatever happens, there is never a run folder that cannot be resumed.

    Args:
        runs_dir: where it is made.
        name: name of the run.
        fill: writes the first content, a file at least, into the folder that it is given, which becomes the run folder.

    Raises:
        ConfigError: the name is not fit to be part of a folder's name.
        DiskError: the folder cannot be made.
    """
    check_run_folder(runs_dir, name)
    draft = temporary_path(runs_dir / f".{name}")
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        remove_strays(runs_dir)
        hold_folder(draft)
    except OSError as error:
        raise DiskError(f"no run folder can be made in {runs_dir}: {error.strerror}", hint=HINT_RUNS_DIR) from error
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
                        f"the run folder {folder} cannot be made: {error.strerror}", hint=HINT_RUNS_DIR
                    ) from error
        raise DiskError(f"the run folder {runs_dir / stem} cannot be made", hint=HINT_RUNS_DIR)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        release(draft)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run folder for this process alone; the system lets go of it even if the process is killed.

    Raises:
        InUseError: another process holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        _acquire(lock, folder)
    except OSError as error:
        raise DiskError(
            f"the run folder {folder} cannot be written: {error.strerror}", hint="check the rights to it"
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
    """Takes a lock. Where its owner is dead, waits for its worker processes to be gone too: they hold it still."""
    for attempt in range(200):
        try:
            lock.acquire(timeout=0)
            return
        except Timeout as error:
            owner = _living_owner(folder)
            if owner is not None or attempt == 199:
                raise InUseError(
                    f"the run folder {folder} is in use by {owner or 'another process'}",
                    hint="wait until it ends, or stop it with Ctrl-C"
                    + ("" if owner else f". If there is none, as after a copy from another system, remove its {LOCK}"),
                ) from error
        time.sleep(0.05)


def _living_owner(folder: Path) -> str | None:
    """Who holds the run folder, in words.

    It writes so just after it took hold of it; until then the file may be missing, or name a process that is dead.
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


def finite(value: Any) -> Any:
    """The value with every number that JSON cannot hold replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class RunLog:
    """Writes `history.jsonl`, the TensorBoard events and `run.log` of a run.

    `history.jsonl` holds what is reproducible; times go to the other two.

    Args:
        folder: the run folder.
        step: optimizer steps that are behind. Later entries, left by a run that was killed between checkpoints, go.
        history: the epochs that are done, as the checkpoint has them.
        command: the command line, for `run.log`.
    """

    def __init__(
        self, folder: Path, *, step: int, history: Sequence[Mapping[str, Any]], command: Sequence[str]
    ) -> None:
        self.folder = folder
        self._step = step
        self._restore(step, history)
        # The last step may have ended an epoch that was validated and logged, but not saved.
        self._unsaved_from = step + 1 if history and history[-1]["step"] == step else step
        self._history = open_to_append(folder / HISTORY)
        self._log = open_to_append(folder / LOG)
        self._show_error = threading.excepthook
        threading.excepthook = self._without_writers
        self._board: SummaryWriter | None = None
        self.text(f"$ {' '.join(command)}" if command else f"process {os.getpid()}, python {sys.version.split()[0]}")

    def _restore(self, step: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Makes the file hold the steps that it knows up to `step`, and the epochs of the checkpoint."""
        path = self.folder / HISTORY
        self._values_of_step: dict[str, float] = {}
        rows = [(row["step"], True, json.dumps(finite(row))) for row in history]
        for line in read_lines(path) if path.is_file() else ():
            try:
                row = json.loads(line)
                if row["kind"] == "step" and row["step"] <= step:
                    if row["step"] == step:
                        values = {"learning_rate": row.get("learning_rate"), "train/grad_norm": row.get("grad_norm")}
                        self._values_of_step = {name: value for name, value in values.items() if type(value) is float}
                    rows.append((row["step"], False, json.dumps(finite(row))))
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # the torn last line of a run that was killed
        rows.sort(key=lambda row: row[:2])
        write_text(path, "".join(f"{line}\n" for _, _, line in rows))

    def entry(self, row: Mapping[str, Any]) -> None:
        """Adds a line to the history."""
        self._history.write(json.dumps(finite(row)) + "\n")
        self._history.flush()

    def logged_step(self, row: Mapping[str, Any]) -> None:
        """Adds a step to the history and to the TensorBoard events."""
        self.entry(row)
        self.scalars(row["step"], {"learning_rate": row["learning_rate"], "train/grad_norm": row["grad_norm"]})

    def epoch(self, row: Mapping[str, Any], seconds: float) -> None:
        """Adds an epoch to the history and to the TensorBoard events; its learning rate is an event of steps."""
        self.entry(row)
        for split in ("train", "val"):
            self.scalars(row["step"], {f"{split}/{name}": value for name, value in row[split].items()})
        self.scalars(row["step"], {"seconds_per_epoch": seconds})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values to the TensorBoard events."""
        events = self._events()
        for name, value in values.items():
            events.add_scalar(name, value, step)

    def hyperparameters(self, values: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        """Adds the settings and the final metrics to the TensorBoard events of this very folder."""
        events = self._events()
        add_hyperparameters(events, values, metrics, step)
        events.flush()  # nobody would hear of an error in closing

    def _events(self) -> SummaryWriter:
        if self._board is None:
            # Not before there is something to write: it takes a while to load, and the first step need not wait for it.
            self._board = open_event_file(self.folder, self._unsaved_from)
            if self._unsaved_from == self._step:
                self.scalars(self._step, self._values_of_step)
        return self._board

    def text(self, text: str) -> None:
        """Adds a line with the time to `run.log`; what would make a second line of it becomes an escape."""
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(text)}\n")
        self._log.flush()

    def sync(self) -> None:
        """Writes through to the disk what was logged: a checkpoint must never know more than the logs do."""
        if self._board is not None:
            self._board.flush()
        self._history.flush()
        os.fsync(self._history.fileno())

    def close(self) -> None:
        """Closes the files."""
        try:
            if self._board is not None:
                self._board.close()
        finally:
            threading.excepthook = self._show_error
            self._history.close()
            self._log.close()

    def _without_writers(self, report: threading.ExceptHookArgs) -> None:
        # The writer of events hands its error on to the next call that adds or flushes.
        if type(report.thread).__name__ != "_AsyncWriterThread":
            self._show_error(report)
