"""Checkpoints: plain tensors and values, written whole or not at all, and verified when read.

Beside each file `X` lies `X.sha256` with the digests that `X` may have, in the form of `sha256sum`. It is replaced
before the file is, and holds the old digest and the new one, so that at every moment the file that is there verifies.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import torch

from dbbd_cli.errors import CheckpointError, DiskError
from dbbd_cli.files import replace_file, write_text
from dbbd_cli.model.safe_load import load_tensors, reason_of
from dbbd_cli.paths import resume_command

CHECKPOINT_FORMAT = 1
NEWEST = "ckpt.pth"
PREVIOUS = "ckpt.previous.pth"
BEST = "best_model.pth"
CONTENT = {"format", "module", "optimizer", "learning_rate", "scaler", "state", "random", "config"}
SUFFIX_DIGEST = ".sha256"
SUFFIX_TEMPORARY = ".tmp"


class _HashingFile:
    """Hashes what is written, so that a checkpoint need not be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hasher = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.hasher.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_checkpoint(state: Mapping[str, Any], folder: Path, *, best: bool) -> None:
    """Makes `state` the newest checkpoint of a run folder, the newest one the previous, and maybe also the best.

    Args:
        state: tensors and plain values.
        folder: the run folder.
        best: whether `best_model.pth` becomes this state too.

    Raises:
        DiskError: the disk is full or cannot be written; the checkpoints that were there are still there.
    """
    newest, previous = folder / NEWEST, folder / PREVIOUS
    temporary = folder / (NEWEST + SUFFIX_TEMPORARY)
    try:
        digest = _write(state, temporary)
        if best:
            # Best before newest: were the run to end in between, the newest would still lead to this best.
            _put(_copy_of(temporary), folder / BEST, [digest])
        if newest.exists():
            _put(_copy_of(newest), previous, _digests_of(newest))
        _put(temporary, newest, [digest])
    except BaseException as error:
        for stray in folder.glob("*" + SUFFIX_TEMPORARY):
            with suppress(OSError):
                stray.unlink()
        if not isinstance(error, OSError):
            raise
        free = shutil.disk_usage(folder).free / 1e6
        raise DiskError(
            f"the checkpoint cannot be written to {folder}: {reason_of(error)} "
            f"({free:,.0f} MB are free, about {state_bytes(state) / 1e6:,.0f} MB are needed)",
            hint=f"make room, then continue with: {resume_command(folder)}",
        ) from error


def _write(state: Mapping[str, Any], path: Path) -> str:
    """Writes a checkpoint through to the disk; returns its digest."""
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        hashing = _HashingFile(file)
        try:
            torch.save({"format": CHECKPOINT_FORMAT, **state}, cast("IO[bytes]", hashing))
        except RuntimeError as error:  # how torch reports that a write failed
            raise hashing.error or error from error
        file.flush()
        os.fsync(file.fileno())
    return hashing.hasher.hexdigest()


def _copy_of(path: Path) -> Path:
    """A second name for a file, or a copy where the file system has no hard links."""
    second = path.with_name(path.name + ".copy" + SUFFIX_TEMPORARY)
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except OSError:
        shutil.copyfile(path, second)
    return second


def _put(source: Path, target: Path, digests: list[str]) -> None:
    """Renames a file over another. `digests` holds the digest of `source`."""
    accepted = list(dict.fromkeys([*digests, *(_digests_of(target) if target.exists() else [])]))[:4]
    write_text(target.with_name(target.name + SUFFIX_DIGEST), "".join(f"{d}  {target.name}\n" for d in accepted))
    replace_file(source, target)


def _digests_of(path: Path) -> list[str]:
    try:
        lines = path.with_name(path.name + SUFFIX_DIGEST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return [_digest(path)] if path.exists() else []
    return [line.split()[0] for line in lines if line.strip()]


def _digest(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            hasher.update(chunk)
    return hasher.hexdigest()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU after checking its digest. Nothing in it can run code.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or not a checkpoint of this program.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist", hint="give a run folder, or a .pth file inside one")
    try:
        digest = _digest(path)
        sidecar = path.with_name(path.name + SUFFIX_DIGEST)
        if sidecar.exists() and digest not in _digests_of(path):
            raise CheckpointError(
                f"{path} is damaged: its SHA-256 is not the one in {sidecar.name}",
                hint=f"use another checkpoint of the run, such as {PREVIOUS} or {BEST}",
            )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error)}") from error
    try:
        state = load_tensors(path)
    except CheckpointError as error:
        error.hint = error.hint or f"use another checkpoint of the run, such as {PREVIOUS} or {BEST}"
        raise
    if not isinstance(state, dict) or not state.keys() >= CONTENT:
        raise CheckpointError(
            f"{path} is not a checkpoint of dbbd",
            hint="to start from bare weights, use train with --set model.weights=PATH",
        )
    if type(state["format"]) is not int or state["format"] != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has format {str(state['format'])[:20]}, and this version reads format {CHECKPOINT_FORMAT}",
            hint="use the version of dbbd that wrote it (see environment.json of the run)",
        )
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
