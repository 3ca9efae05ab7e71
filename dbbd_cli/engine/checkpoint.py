"""Checkpoints: plain tensors and values, written whole or not at all, and verified when written and when read."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dbbd_cli.errors import CheckpointError, DiskError
from dbbd_cli.files import repair_of, replace_file, temporary_path
from dbbd_cli.model.safe_load import load_tensors, reason_of
from dbbd_cli.model.sealed_file import is_intact, is_sealed, write_sealed
from dbbd_cli.paths import resume_command
from dbbd_cli.text import printable

CHECKPOINT_FORMAT = 2
NEWEST = "ckpt.pth"
BEST = "best_model.pth"
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_PREVIOUS = re.compile(r"ckpt\.previous(\d{0,6})\.pth")
CONTENT = {
    *("format", "module", "optimizer", "learning_rate", "scaler", "state", "random", "config", "splits", "proof")
}


def previous_name(age: int) -> str:
    """The name of the checkpoint that is `age` saves older than the newest."""
    return f"ckpt.previous{age if age > 1 else ''}.pth"


def damaged_path(path: Path, number: int) -> Path:
    """Where a damaged checkpoint goes when a run goes on from another: nothing is deleted."""
    return path.with_name(f"{path.stem}.damaged{number if number > 1 else ''}.pth")


def checkpoint_names(folder: Path) -> list[str]:
    """The checkpoints that are there, newest first, the best model last."""
    ages = [int(found[1] or 1) for path in folder.iterdir() if (found := _PREVIOUS.fullmatch(path.name))]
    names = [NEWEST, *(previous_name(age) for age in sorted(ages)), BEST]
    return [name for name in names if (folder / name).exists()]


def save_checkpoint(
    state: Mapping[str, Any], folder: Path, *, best: bool, keep: int, between: Callable[[], None] = lambda: None
) -> None:
    """Makes `state` the newest checkpoint of a run folder, and maybe also the best model.

    At every moment of it the folder holds a checkpoint that verifies. Older ones give way only once the new one has
    been read back and verified.

    Args:
        state: tensors and plain values.
        folder: the run folder.
        best: whether `best_model.pth` becomes this state too.
        keep: how many of the newest are kept, this one among them; the best model is kept beside them.
        between: called every few MB; what it raises gives up the save, and the folder is as it was.

    Raises:
        DiskError: the disk is full or cannot be written; the checkpoints that were there are still there.
    """
    newest = folder / NEWEST
    temporary, second = temporary_path(newest), temporary_path(newest)
    try:
        write_sealed({"format": CHECKPOINT_FORMAT, **state}, temporary, between)
        temporary.stat()  # raises where somebody has taken the folder away
        if not is_intact(temporary, between):
            raise OSError(f"what was written to {folder} reads back differently")
        if best:
            # Best before newest: were the run to end in between, the newest would still lead to this best.
            _link(temporary, second)
            replace_file(second, folder / BEST)
        for age in range(keep - 1, 1, -1):
            if (folder / previous_name(age - 1)).exists():
                replace_file(folder / previous_name(age - 1), folder / previous_name(age))
        if keep > 1 and newest.exists():
            _link(newest, second)
            replace_file(second, folder / previous_name(1))
        replace_file(temporary, newest)
        for name in set(checkpoint_names(folder)) - {NEWEST, BEST} - {previous_name(age) for age in range(1, keep)}:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, folder, state_bytes(state)) from error
    finally:
        for stray in (temporary, second):
            with suppress(OSError):
                stray.unlink(missing_ok=True)


def _link(path: Path, second: Path) -> None:
    """A second name for a file, or a copy where the file system has no hard links."""
    try:
        os.link(path, second)
    except OSError:
        shutil.copyfile(path, second)
        with second.open("rb+") as file:
            os.fsync(file.fileno())


def disk_error(error: OSError, folder: Path, needed: int) -> DiskError:
    """An error of writing to a run folder; for a full disk with the room that there is and what is needed, in bytes."""
    if not folder.exists():
        return DiskError(
            f"the run folder {folder} is no longer there, and what came after its last checkpoint is lost",
            hint="put it back, or resume it where it is now",
        )
    place = error.filename2 or error.filename  # the second of a renaming is the one that people know
    name = Path(os.fsdecode(place)).name if isinstance(place, (str, bytes)) else "what the run writes"
    what, repair = f"{name} cannot be written to {folder}: {reason_of(error)}", "mend that"
    if error.errno in _FULL:
        free = shutil.disk_usage(folder).free / 1e6
        what += f" ({free:,.1f} MB are free, and a checkpoint needs about {needed / 1e6:,.1f} MB)"
        repair = repair_of(error)
        if error.errno != errno.EFBIG and free > needed / 1e6:
            repair = "make room: a quota, or the number of files that the disk can hold, may be what is used up"
    return DiskError(what, hint=f"{repair}, then continue with: {resume_command(folder)}")


def not_a_file(path: Path) -> CheckpointError:
    """The error about a path where there is no file, but nothing at all or a folder, a device, a pipe."""
    what = "is not a file" if path.exists() else "does not exist"
    return CheckpointError(f"{path} {what}", hint="give a run folder, or a .pth file inside one")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU after checking its digest. Nothing in it can run code.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or not a checkpoint of this program.
    """
    if not path.is_file():
        raise not_a_file(path)
    hint = "use another checkpoint of the run; a run folder stands for the newest that is whole"
    try:
        state = load_tensors(path)
    except CheckpointError as error:
        error.hint = error.hint or hint
        raise
    if (
        isinstance(state, dict)
        and state.keys() >= {"format", "module"}
        and (type(state["format"]) is not int or state["format"] != CHECKPOINT_FORMAT)
    ):
        raise CheckpointError(
            f"{path} has format {printable(str(state['format'])[:20])}, "
            f"and this version reads format {CHECKPOINT_FORMAT}",
            hint="use the version of dbbd that wrote it (see environment.json of the run)",
        )
    if not isinstance(state, dict) or not state.keys() >= CONTENT:
        raise CheckpointError(
            f"{path} is not a checkpoint of dbbd",
            hint="to start from bare weights, use train with --set model.weights=PATH",
        )
    if not is_sealed(path):
        raise CheckpointError(f"{path} is damaged: it does not end with its SHA-256", hint=hint)
    return state


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(state_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(state_bytes(value) for value in state)
    return 0
