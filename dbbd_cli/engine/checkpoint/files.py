"""Checkpoints: tensors and plain values, written atomically, and verified after writing and before use."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dbbd_cli import __version__
from dbbd_cli.core.errors import CheckpointError, ConfigError, DiskError, reason_of
from dbbd_cli.core.files import repair_of, replace_file
from dbbd_cli.core.paths import resume_command
from dbbd_cli.core.temporary import discard, final_name, temporary_file, temporary_link
from dbbd_cli.core.text import printable
from dbbd_cli.engine.checkpoint.shards import (
    SHARDS,
    folder_of,
    shards_in,
    verify_shards,
    with_whole_tensors,
    write_shards,
)
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.sharding import shards_of
from dbbd_cli.engine.state import TrainState
from dbbd_cli.model.digest import digest_matches, has_digest, is_sparse, save_with_digest
from dbbd_cli.model.weights import ContentError, load_tensors

CHECKPOINT_FORMAT = 2
_FORMAT_WITH_SHARDS = 3
WRITER = "dbbd_version"
"""Key of the version that wrote a checkpoint."""
NEWEST = "ckpt.pth"
BEST = "best_model.pth"
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_VERSION = re.compile(r"\d[\w.+!-]{0,39}", re.ASCII)
_PREVIOUS = re.compile(r"ckpt\.previous(\d{0,6})\.pth")
CONTENT = {
    "format", "module", "optimizer", "learning_rate", "scaler", "state", "random", "config", "runtime", "splits",
    "proof",
}  # fmt: skip


class UnreadableCheckpointError(CheckpointError):
    """An undamaged checkpoint that this version cannot read: it is never skipped, replaced or renamed."""


def previous_name(age: int) -> str:
    """The name of the checkpoint that is `age` saves older than the newest."""
    return f"ckpt.previous{age if age > 1 else ''}.pth"


def damaged_path(path: Path, number: int) -> Path:
    """Where a damaged checkpoint is kept when a run resumes from another one: nothing is deleted."""
    return path.with_name(f"{path.stem}.damaged{number if number > 1 else ''}.pth")


def checkpoint_names(folder: Path) -> list[str]:
    """The names of the checkpoints in a folder, newest first, the best model last."""
    ages = [int(found[1] or 1) for path in folder.iterdir() if (found := _PREVIOUS.fullmatch(path.name))]
    names = [NEWEST, *(previous_name(age) for age in sorted(ages)), BEST]
    return [name for name in names if (folder / name).exists()]


def save_checkpoint(
    state: Mapping[str, Any],
    folder: Path,
    *,
    best: bool,
    keep: int,
    on_chunk: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> None:
    """Make `state` the newest checkpoint of a run folder, and optionally also the best model.

    The folder has an intact checkpoint at every moment: older ones are replaced only after the new one has been read
    back and verified.

    Args:
        state: tensors and plain values.
        folder: the run folder.
        best: whether `best_model.pth` becomes this state, too.
        keep: how many of the newest checkpoints are kept, including this one; the best model is kept in addition.
        on_chunk: called every few MB; if it raises, the save is abandoned and the folder stays as it was.
        processes: those among which the state is divided, all of which call this; the folder of the first one counts.

    Raises:
        DiskError: the disk is full or not writable; existing checkpoints are unchanged.
    """
    temporary: Path | None = None
    content: Mapping[str, Any] = state
    is_divided = bool(shards_of(state))
    before = shards_in(folder) if processes.is_first else set()
    known = _named_shards(folder)[0] if before else set()
    try:
        if is_divided:
            content = write_shards(state, folder, processes)
        if not processes.is_first:
            return
        temporary = temporary_file(folder / NEWEST)
        number = _FORMAT_WITH_SHARDS if SHARDS in content else CHECKPOINT_FORMAT
        save_with_digest({**content, "format": number, WRITER: __version__}, temporary, on_chunk)
        temporary.stat()  # raises if the folder was moved or removed
        if not digest_matches(temporary, on_chunk):
            raise OSError(f"data written to {folder} reads back differently")
        _put_in_place(temporary, folder, best, keep)
    except OSError as error:
        failure = disk_error(error, folder, state_bytes(state))
        failure.all_have_it = not processes.is_first  # these have only written parts, in which all fail together
        raise failure from error
    finally:
        if temporary is not None:
            discard(temporary)
        if processes.is_first and (is_divided or before):
            _remove_unused_shards(folder, known | (shards_in(folder) - before))


def _put_in_place(temporary: Path, folder: Path, best: bool, keep: int) -> None:
    """Make a complete file the newest checkpoint of a run folder, and the others older by one."""
    newest = folder / NEWEST
    if best:
        # Best before newest: if the process dies in between, resuming from the old newest writes this best again.
        _replace_by_link(temporary, folder / BEST)
    for age in range(keep - 1, 1, -1):
        if (folder / previous_name(age - 1)).exists():
            replace_file(folder / previous_name(age - 1), folder / previous_name(age))
    if keep > 1 and newest.exists():
        _replace_by_link(newest, folder / previous_name(1))
    replace_file(temporary, newest)
    for name in set(checkpoint_names(folder)) - {NEWEST, BEST} - {previous_name(age) for age in range(1, keep)}:
        (folder / name).unlink(missing_ok=True)


def _remove_unused_shards(folder: Path, known: set[str]) -> None:
    """Remove the parts of checkpoints that no longer exist.

    Args:
        folder: the run folder.
        known: parts of which it is known what they belonged to. Others may be those of a checkpoint that is damaged.
    """
    used, all_are_readable = _named_shards(folder)
    for name in (shards_in(folder) if all_are_readable else known & shards_in(folder)) - used:
        shutil.rmtree(folder / name, ignore_errors=True)


def _named_shards(folder: Path) -> tuple[set[str], bool]:
    """The folders of parts that the checkpoints of a run name, and whether all checkpoints can be read."""
    used, all_are_readable = set(), True
    for path in folder.glob("*.pth"):
        try:
            used.add(folder_of(load_tensors(path, without_data=True)))
        except (CheckpointError, ValueError):
            all_are_readable = False
    return {name for name in used if name is not None}, all_are_readable


def _replace_by_link(path: Path, target: Path) -> None:
    """Make `target` a hard link to `path`, or a copy where the file system has no hard links."""
    second = temporary_link(path, target)
    try:
        replace_file(second, target)
    finally:
        discard(second)


def disk_error(error: OSError, folder: Path, checkpoint_bytes: int = 0) -> DiskError:
    """The error for a failed write to a run folder, with the free space if the disk is full."""
    if not folder.exists():
        return DiskError(
            f"the run folder {folder} no longer exists, and progress since its last checkpoint is lost",
            hint="put it back, or resume it where it is now",
        )
    place = error.filename2 or error.filename  # of a rename, the target is the name that users know
    name = final_name(Path(os.fsdecode(place)).name) if isinstance(place, (str, bytes)) else "a file of the run"
    what, repair = f"{name} cannot be written to {folder}: {reason_of(error)}", repair_of(error)
    if error.errno in _FULL:
        free = shutil.disk_usage(folder).free / 1e6
        needed = checkpoint_bytes / 1e6
        what += f" ({free:,.1f} MB is free" + (f", and a checkpoint needs about {needed:,.1f} MB)" if needed else ")")
        if error.errno != errno.EFBIG and 0 < needed < free:
            repair = "free some space: a quota or the number of files on the disk may be exhausted"
    return DiskError(what, hint=f"{repair}, then continue with: {resume_command(folder)}")


def load_checkpoint(path: Path, *, whole: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU after verifying its digests. None of its code can run.

    Args:
        path: the file, which a run that trains may replace meanwhile.
        whole: whether to read the tensors that processes had divided; otherwise they are left out.

    Raises:
        UnreadableCheckpointError: the file is undamaged, but this version cannot read it.
        CheckpointError: the file is missing, damaged, unsafe, or not a checkpoint of this program.
    """
    state = _without_shards(path)
    while True:
        try:
            verify_shards(state, path)
            return with_whole_tensors(state, path) if whole else state
        except CheckpointError:
            newer = _without_shards(path)  # a save may have replaced the file, and removed the parts of the older one
            if newer.get(SHARDS) == state.get(SHARDS):
                raise
            state = newer


def _without_shards(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's own file."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}", hint="pass a run folder, or a .pth file inside one")
    hint = "use another checkpoint of the run; a run folder means its newest intact one"
    try:
        state = load_tensors(path)
    except ContentError as error:
        if is_damaged(path):
            raise CheckpointError(error.message, hint=hint) from error
        raise _cannot_read(path, error.message, {}) from error
    except CheckpointError as error:  # of the system: no permission, too little memory
        if is_damaged(path):
            raise
        raise UnreadableCheckpointError(error.message, hint="fix the cause: the file is undamaged") from error
    if not isinstance(state, dict) or "format" not in state or not state.keys() & {"module", WRITER}:
        if not is_damaged(path):  # only dbbd writes such a digest
            raise _unreadable(path, f"{path} has a matching SHA-256, but dbbd {__version__} cannot interpret it", {})
        raise CheckpointError(
            f"{path} is not a checkpoint of dbbd",
            hint="to start from bare weights, use train with --set model.weights=PATH",
        )
    if not _has_known_format(state):
        found = printable(str(state["format"])[:20]) if isinstance(state["format"], (int, str)) else "unknown"
        raise _unreadable(
            path, f"{path} has format {found}, and dbbd {__version__} reads format {CHECKPOINT_FORMAT}", state
        )
    if missing := sorted(CONTENT - state.keys()):
        raise _unreadable(path, f"{path} lacks {', '.join(missing)}, which dbbd {__version__} needs", state)
    if not has_digest(path):
        raise CheckpointError(f"{path} is damaged: it does not end with its SHA-256", hint=hint)
    return state


def _has_known_format(state: Mapping[str, Any]) -> bool:
    return type(state["format"]) is int and state["format"] in (CHECKPOINT_FORMAT, _FORMAT_WITH_SHARDS)


def _cannot_read(path: Path, reason: object, state: Mapping[str, Any]) -> UnreadableCheckpointError:
    return _unreadable(path, f"dbbd {__version__} cannot read {path}, although its SHA-256 matches: {reason}", state)


def _unreadable(path: Path, message: str, state: Mapping[str, Any]) -> UnreadableCheckpointError:
    """The error about an undamaged checkpoint, naming the version that wrote it if the file does."""
    writer = state.get(WRITER)
    if isinstance(writer, str) and _VERSION.fullmatch(writer):
        use = f"use dbbd {writer}, which wrote it"
    else:
        use = "use the version of dbbd that wrote it (see environment.json)"
    return UnreadableCheckpointError(
        message, hint=f"{use}; to continue without this file, move it out of the run folder: dbbd never replaces it"
    )


def is_damaged(path: Path) -> bool:
    """Whether a checkpoint is not a file, or its digest is missing or does not match; False if it cannot be read."""
    if not path.is_file():
        return True
    try:
        if not has_digest(path) or is_sparse(path) or not digest_matches(path):
            return True
    except OSError:
        return False
    try:
        verify_shards(load_tensors(path, without_data=True), path)
    except ContentError:
        return False  # undamaged, but nothing that can be read
    except CheckpointError:
        return True
    return False


def refuse_unreadable(folder: Path, check_config: Callable[[Any, str], object]) -> None:
    """Raise if a run folder holds an undamaged checkpoint that this version cannot read: a save would replace it.

    Reads no tensor data, so it takes milliseconds for checkpoints of any size.

    Raises:
        UnreadableCheckpointError: names it, and the version that wrote it.
    """
    for name in checkpoint_names(folder):
        path = folder / name
        if not path.is_file():
            continue
        reason: object = "it has other parts"
        try:
            content = load_tensors(path, without_data=True)
            if isinstance(content, dict) and content.keys() >= CONTENT and _has_known_format(content):
                TrainState.from_plain(content["state"])
                check_config(content["config"], str(path))
                continue
        except (CheckpointError, ConfigError, ValueError, TypeError, AttributeError) as error:
            reason = error
        try:
            state = load_checkpoint(path)
        except UnreadableCheckpointError:
            raise
        except CheckpointError:
            continue  # damaged, or not a checkpoint
        raise _cannot_read(path, reason, state)


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(state_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(state_bytes(value) for value in state)
    return 0
