"""Checks of the paths on the command line, before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from dbbd_cli.cli.completion.complete import run_folders
from dbbd_cli.core.errors import CheckpointError, DiskError
from dbbd_cli.core.paths import command_line, current_folder_is_gone, leave_missing_folder, shown_path
from dbbd_cli.data.images.formats import FORMAT_OF_SUFFIX

_DATA = frozenset({*FORMAT_OF_SUFFIX, *(".ply", ".npz", ".npy", ".las", ".laz", ".pcd", ".xyz", ".obj", ".csv")})
_OTHER = frozenset({".json", ".jsonl", ".log", ".txt", ".html", ".svg", ".pdf", ".md", ".py"})
_RUN_FILES = ("splits.json", "history.jsonl", "ckpt.pth", "best_model.pth")
_HINT = "Give a run folder, such as runs/<time>-<name>, or a checkpoint file (.pth) in one."
_MOST_ENTRIES = 10_000
"""Entries examined per folder: enough to tell what it contains."""


def run_or_checkpoint(target: Path, *, any_file: bool = False) -> Path:
    """Return the target if it may be a run folder or a checkpoint; whether it is valid is for the service to find out.

    Args:
        target: the argument.
        any_file: whether any file in a run folder stands for the run.

    Raises:
        CheckpointError: it does not exist, or is something else; the message says what.
    """
    from dbbd_cli.config.shipped import shipped_configs

    if str(target) in shipped_configs() and not os.path.lexists(target):
        train = command_line("dbbd", "train", "--config", str(target))
        raise CheckpointError(f"{target} is a shipped configuration, not a run", hint=f"To train with it: {train}")
    _check_exists(target)
    problem, hint = _folder(target) if target.is_dir() else _file(target, any_file)
    if problem:
        raise CheckpointError(f"{shown_path(target)} is {problem}", hint=hint)
    return target


def removed_folder_error() -> DiskError:
    """The error for a path that is relative to a removed folder."""
    return DiskError("the current folder no longer exists", hint="Change to another folder, or give absolute paths.")


def leave_removed_folder(*paths: Path | None) -> None:
    """Change to another folder if the current one has been removed: importing PyTorch fails there.

    Raises:
        DiskError: one of the paths is relative to the removed folder.
    """
    if current_folder_is_gone():
        if not all(path is None or path.is_absolute() for path in paths):
            raise removed_folder_error()
        leave_missing_folder()


def _check_exists(target: Path) -> None:
    """Raise an error that suggests similar paths if there is nothing at the target."""
    try:
        if target.exists():
            return
    except (OSError, ValueError) as error:  # a name that is too long or contains a NUL, or a folder without permission
        raise CheckpointError(f"{target} cannot be opened: {error}", hint="Check the path.") from error
    if target.is_symlink():
        raise CheckpointError(f"{target} is a broken link", hint="Check where it points.")
    from difflib import get_close_matches

    siblings = [str(path) for path in target.parent.iterdir()] if target.parent.is_dir() else []
    runs = [str(path) for path in run_folders()]
    close = get_close_matches(str(target), siblings + runs, n=1, cutoff=0.6)
    if close:
        hint = f"Did you mean {shown_path(Path(close[0]))}?"
    elif runs:
        hint = f"The newest run here is {runs[-1]}."
    else:
        hint = _HINT
    raise CheckpointError(f"no such run folder or checkpoint: {target}", hint=hint)


def _folder(folder: Path) -> tuple[str, str]:
    """What a folder is if it is not a run, and what to give instead; empty if it may be a run."""
    if _is_run(folder):
        return "", ""
    entries = _entries(folder)
    if any(entry.suffix == ".pth" for entry in entries):
        return "", ""
    if runs := sorted(entry for entry in [*entries, *_entries(folder / "runs")] if _is_run(entry)):
        return "a folder of runs, not a run", f"Give one of them, such as the newest: {shown_path(runs[-1])}"
    inner = [*entries, *(file for entry in entries[:20] if entry.is_dir() for file in _entries(entry))]
    suffixes = {entry.suffix.lower() for entry in inner}
    if entries and all(entry.suffix.lower() in (".yaml", ".yml") for entry in entries):
        return "a folder of configurations, not a run", _HINT
    if suffixes & {*_DATA, ".pkl"}:
        return "a folder of data, not a run", _HINT
    return "not a run folder: it contains no checkpoint", _HINT


def _file(file: Path, any_file: bool) -> tuple[str, str]:
    """What a file is if it is not a checkpoint, and what to give instead; empty if it may be a checkpoint."""
    suffix = file.suffix.lower()
    in_run = _is_run(file.parent)
    if any_file and in_run:
        return "", ""
    instead = f"Give the run folder instead: {shown_path(file.parent)}" if in_run else _HINT
    if file.name.startswith("events.out.tfevents"):
        return "a TensorBoard event file, not a checkpoint", instead
    if suffix in (".yaml", ".yml") and in_run:
        return "the configuration of a run, not a checkpoint", instead
    if suffix in (".yaml", ".yml"):
        train = command_line("dbbd", "train", "--config", shown_path(file))
        return "a configuration, not a run", f"To train with it: {train}"
    if suffix in _DATA | _OTHER:
        return f"a {suffix} file, not a checkpoint", instead
    return "", ""


def _is_run(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in _RUN_FILES)  # noqa: PTH113 - a Path raises without permission


def _entries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False)]
    except OSError:
        return []
