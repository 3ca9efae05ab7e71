"""The output of a command: its result on standard output, progress and messages on standard error."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from dbbd_cli.cli.terminal.progress_lines import LineProgress
from dbbd_cli.cli.terminal.streams import colored, columns, is_terminal, write_result
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.processes import from_environment
from dbbd_cli.core.progress import Progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import RenderableType

    Result = TypeVar("Result", bound=DataclassInstance)


class Output:
    """Shows the progress and the result of a command as its options ask.

    Args:
        as_json: whether to print the result as one JSON object.
        style: how to show progress.
        quiet: whether to show only warnings, errors and the result.
        together: whether the command may be run by several processes, the first of which shows everything.

    Raises:
        ConfigError: torchrun or `srun` has started several processes for another command.
    """

    exists = False
    """Whether the command has one, and thus begins its work: before that, it checks what it was given."""

    def __init__(self, *, as_json: bool, style: str, quiet: bool, together: bool = False) -> None:
        member = from_environment(os.environ)
        if member.size > 1 and not together:
            raise ConfigError(
                f"{member.size} processes were started for a command that needs only one",
                hint="start it without torchrun or srun; train, resume, validate, evaluate and prepare use several",
            )
        if member.size > 1:
            # PyTorch would write warnings about its own internals between our lines.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        self._as_json = as_json
        self._shows = member.is_first
        self.progress = _progress(style, quiet or not self._shows, sys.stderr)
        Output.exists = True

    def show(
        self, result: Result, describe: Callable[[Result, int | None], list[RenderableType]], **extra: object
    ) -> None:
        """Print the result: as one JSON object, including `extra`, or as `describe` lays it out for the width."""
        if not self._shows:
            return
        if self._as_json:
            write_result(json.dumps(plain({**dataclasses.asdict(result), **extra}), allow_nan=False))
        else:
            width = columns(sys.stdout)
            parts = describe(result, width)
            # An empty line separates a long result from the messages above it.
            gap = "\n" if width is not None and len(parts) > 1 else ""
            write_result(gap + _rendered(parts, width))


def _progress(style: str, quiet: bool, stream: TextIO) -> Progress:
    """Bars on a terminal, lines otherwise. With `NO_COLOR`, bars only if `--progress rich` asks for them."""
    if quiet:
        return LineProgress(stream, only_warnings=True)
    if style == "none":
        return LineProgress(stream, seconds=math.inf)
    if (style == "rich" and is_terminal(stream)) or (style == "auto" and colored(stream)):
        from dbbd_cli.cli.terminal.progress_bars import BarProgress

        return BarProgress(stream)
    return LineProgress(stream)


def plain(value: Any) -> Any:
    """The value in the types of JSON: paths become strings, NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _rendered(parts: list[RenderableType], width: int | None) -> str:
    """The parts as text, in color if standard output shows colors; width None: lines of any length."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(
        file=text,
        force_terminal=colored(sys.stdout),
        color_system="auto" if colored(sys.stdout) else None,
        width=width or 1000,
        markup=False,
        emoji=False,
        highlight=False,
    )
    for part in parts:
        # Paths and commands are left for the terminal to wrap, so that they can be copied whole.
        console.print(part, soft_wrap=bool(getattr(part, "no_wrap", False)))
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().split("\n"))
