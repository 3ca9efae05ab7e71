"""Checks of the paths on the command line, before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dbbd_cli.cli.completion.complete import run_folders
from dbbd_cli.config.shipped import shipped_configs
from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.core.paths import command_line, shown_path

_RUN_FILES = ("splits.json", "history.jsonl", "ckpt.pth", "best_model.pth")
_HINT = "pass a run folder, such as runs/<time>-<name>, or a checkpoint file (.pth) in one"


def require_run_or_checkpoint(target: Path, *, any_file: bool = False) -> None:
    """Check that the target may be a run folder or a checkpoint; whether it is valid is for the service to find out.

    Args:
        target: the argument.
        any_file: whether any file in a run folder means the run.

    Raises:
        CheckpointError: it does not exist, or is something else.
    """
    shown = shown_path(target)
    if not os.path.exists(target):  # noqa: PTH110 - a Path raises if a name is too long
        if str(target) in shipped_configs():
            raise _is_configuration(shown)
        raise CheckpointError(f"no such run folder or checkpoint: {target}", hint=_similar(target))
    if target.is_dir():
        if not _is_run(target) and not any(target.glob("*.pth")):
            runs = run_folders(target) or run_folders(target / "runs")
            hint = f"pass one of the runs in it, such as the newest: {shown_path(runs[-1])}" if runs else _HINT
            raise CheckpointError(f"{shown} is not a run folder: it contains no checkpoint", hint=hint)
    elif _is_run(target.parent):
        if target.suffix != ".pth" and not any_file:
            raise CheckpointError(
                f"{shown} is not a checkpoint", hint=f"pass the run folder instead: {shown_path(target.parent)}"
            )
    elif target.suffix in (".yaml", ".yml"):
        raise _is_configuration(shown)


def _is_configuration(shown: str) -> CheckpointError:
    train = command_line("dbbd", "train", "--config", shown)
    return CheckpointError(f"{shown} is a configuration, not a run", hint=f"to train with it: {train}")


def _similar(target: Path) -> str:
    from difflib import get_close_matches

    siblings = []
    with suppress(OSError):  # a path that is too long
        siblings = [str(path) for path in target.parent.glob("*") if path.exists()]
    runs = [str(path) for path in run_folders()]
    if close := get_close_matches(str(target), siblings + runs, n=1):
        return f"did you mean {shown_path(Path(close[0]))}?"
    return f"the newest run here is {runs[-1]}" if runs else _HINT


def _is_run(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in _RUN_FILES)  # noqa: PTH113 - a Path raises without permission
