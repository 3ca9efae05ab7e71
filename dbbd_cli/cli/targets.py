"""Recognizes arguments that are neither a run folder nor a checkpoint, and says what they are."""

from __future__ import annotations

import os
from pathlib import Path

from dbbd_cli.cli.options import existing
from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.core.paths import command_line, shown_path
from dbbd_cli.data.images.formats import FORMAT_OF_SUFFIX

_DATA = frozenset({*FORMAT_OF_SUFFIX, *(".ply", ".npz", ".npy", ".las", ".laz", ".pcd", ".xyz", ".obj", ".csv")})
_OTHER = frozenset({".json", ".jsonl", ".log", ".txt", ".html", ".svg", ".pdf", ".md", ".py"})
_RUN_FILES = ("splits.json", "history.jsonl", "ckpt.pth", "best_model.pth")
_HINT = "Give a run folder, such as runs/<time>-<name>, or a checkpoint file (.pth) in one."
_MOST_ENTRIES = 10_000
"""Entries of a folder that are examined: enough to see what it holds."""


def run_or_checkpoint(target: Path, *, any_file: bool = False) -> Path:
    """Returns the target if it may be a run folder or a checkpoint; the service finds out whether it is valid.

    Args:
        target: the argument.
        any_file: whether any file of a run folder means the run.

    Raises:
        CheckpointError: it does not exist, or is something else; the message says what.
    """
    from dbbd_cli.config.shipped import shipped_configs

    if str(target) in shipped_configs() and not os.path.lexists(target):
        train = command_line("dbbd", "train", "--config", str(target))
        raise CheckpointError(f"{target} is a shipped configuration, not a run", hint=f"To train with it: {train}")
    existing(target)
    problem, hint = _folder(target) if target.is_dir() else _file(target, any_file)
    if problem:
        raise CheckpointError(f"{shown_path(target)} is {problem}", hint=hint)
    return target


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
    return "not a run folder: it holds no checkpoint", _HINT


def _file(file: Path, any_file: bool) -> tuple[str, str]:
    """What a file is if it is not a checkpoint, and what to give instead; empty if it may be a checkpoint."""
    suffix = file.suffix.lower()
    in_run = _is_run(file.parent)
    if any_file and in_run:
        return "", ""
    home = f"Give the run folder instead: {shown_path(file.parent)}" if in_run else _HINT
    if file.name.startswith("events.out.tfevents"):
        return "a TensorBoard event file, not a checkpoint", home
    if suffix in (".yaml", ".yml") and in_run:
        return "the configuration of a run, not a checkpoint", home
    if suffix in (".yaml", ".yml"):
        train = command_line("dbbd", "train", "--config", shown_path(file))
        return "a configuration, not a run", f"To train with it: {train}"
    if suffix in _DATA | _OTHER:
        return f"a {suffix} file, not a checkpoint", home
    return "", ""


def _is_run(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in _RUN_FILES)  # noqa: PTH113 - a Path raises without permission


def _entries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False)]
    except OSError:
        return []
