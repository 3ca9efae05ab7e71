"""The options that commands share, and how they become overrides of the configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbbd_cli.cli.completion import complete
from dbbd_cli.core.errors import CheckpointError, ConfigError, DiskError

if TYPE_CHECKING:
    from dbbd_cli.config.load import Override


class ProgressStyle(str, Enum):
    """How progress is shown."""

    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    NONE = "none"


class Precision(str, Enum):
    """Arithmetic of forward and backward."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


_OUTPUT = "Output"

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=_OUTPUT)]
Progress = Annotated[
    ProgressStyle,
    typer.Option(
        "--progress",
        metavar="auto|rich|plain|none",
        help="Show progress as bars (rich), as a line every 10 s (plain) or not at all (none); "
        "auto: bars on a terminal, plain lines otherwise.",
        rich_help_panel=_OUTPUT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show only warnings, errors and the result.", rich_help_panel=_OUTPUT),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_OUTPUT)]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override any configuration key, such as training.batch_size=64; repeatable. Text, such as data.path, is "
        "taken literally; other values are YAML, and null is null.",
        autocompletion=complete.setting,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|mps",
        help="Run on this device (cuda:1 for the second GPU).",
        autocompletion=complete.device,
    ),
]
Target = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|CKPT",
        help="A run folder, or a checkpoint file inside one.",
        show_default=False,
        autocompletion=complete.target,
    ),
]


def overrides(settings: Sequence[str] | None, flags: Mapping[str, tuple[str, object]]) -> list[Override]:
    """What the command line changes in the configuration: `--set` in its order, then the flags that were given.

    Args:
        settings: `KEY=VALUE` texts of `--set`.
        flags: each flag with its key and value; a value of None means that the flag was not given.

    Raises:
        ConfigError: a text is not `KEY=VALUE`.
    """
    from dbbd_cli.config.load import Override, parse_override

    given = [parse_override(text) for text in settings or ()]
    given.extend(Override(key, value, flag) for flag, (key, value) in flags.items() if value is not None)
    return given


def check_overrides(target: Path, changes: Sequence[Override]) -> None:
    """Tells of a setting that a run cannot have before PyTorch is loaded, which the checkpoint's own settings need.

    Raises:
        ConfigError: as the checkpoint would raise it.
    """
    from dbbd_cli.tasks.configs import load_config

    path = (target if target.is_dir() else target.parent) / "config.yaml"
    if not changes or not os.path.isfile(path):  # noqa: PTH113 - a Path raises where it may not look
        return
    try:
        load_config(str(path))
    except ConfigError:
        return  # it has been changed, or is of no run: only the checkpoint can tell
    load_config(str(path), changes)


def missing_folder() -> DiskError:
    """The error for a path that is relative to a removed folder."""
    return DiskError("the current folder no longer exists", hint="Change to another one, or give full paths.")


def leave_gone_folder(*paths: Path | None) -> None:
    """Changes to another folder if the current one has been removed, before PyTorch is loaded, which needs one.

    Raises:
        DiskError: one of the paths is relative to the removed folder.
    """
    from dbbd_cli.core.paths import current_folder_is_gone, leave_missing_folder

    if current_folder_is_gone():
        if not all(path is None or path.is_absolute() for path in paths):
            raise missing_folder()
        leave_missing_folder()


def existing(target: Path) -> Path:
    """The target, if there is such a file or folder: a misspelt path is answered before PyTorch is loaded.

    Raises:
        CheckpointError: there is none; the hint names similar ones.
    """
    try:
        if target.exists():
            return target
    except (OSError, ValueError) as error:  # too long for a name, a NUL, a folder that is closed to this user
        raise CheckpointError(f"{target} cannot be opened: {error}", hint="Check the path.") from error
    if target.is_symlink():
        raise CheckpointError(f"{target} is a broken link", hint="Check where it points.")
    from difflib import get_close_matches

    from dbbd_cli.core.paths import shown_path

    siblings = [str(path) for path in target.parent.iterdir()] if target.parent.is_dir() else []
    runs = [str(path) for path in complete.run_folders()]
    close = get_close_matches(str(target), siblings + runs, n=1, cutoff=0.6)
    if close:
        hint = f"Did you mean {shown_path(Path(close[0]))}?"
    elif runs:
        hint = f"The newest run here is {runs[-1]}."
    else:
        hint = "Give a run folder, such as runs/<time>-<name>, or a checkpoint file in one."
    raise CheckpointError(f"no such run folder or checkpoint: {target}", hint=hint)
