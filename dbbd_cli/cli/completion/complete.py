"""Shell completion: configurations, their keys and values, runs, tasks, devices.

Each function takes what was typed so far and returns `(value, help)` pairs. The shell scripts put no space
after a value that ends in `=` or `/`, because the word is not complete yet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import typer

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.text import printable

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Candidates = list[tuple[str, str]]

_MOST_BYTES = 100_000
"""The part of a configuration that is searched for its task."""
_SPECIAL = frozenset("\"'`$;|&<>(){}*?!#\\")
"""Characters that a shell interprets."""

_DEVICES: Candidates = [
    ("auto", "cuda if available, else mps, else cpu"),
    ("cpu", "processor"),
    ("cuda", "first NVIDIA or AMD GPU"),
    ("mps", "Apple GPU"),
]


_PROCESSES: Candidates = [
    ("auto", "one for each GPU, or else for each processor"),
    *((str(number), "processes") for number in (2, 4, 8)),
]


def configuration(incomplete: str) -> Candidates:
    """Shipped configurations by name, YAML files, and folders."""
    from dbbd_cli.config.shipped import shipped_configs

    shipped = [(name, "shipped configuration") for name in shipped_configs()]
    return [pair for pair in shipped if pair[0].startswith(incomplete)] + _paths(incomplete, (".yaml", ".yml"))


def target(incomplete: str) -> Candidates:
    """Run folders, checkpoint files, and folders; if nothing is typed yet, the runs in `runs`."""
    runs = [(str(path), "run") for path in run_folders() if str(path).startswith(incomplete) and _is_plain(path.name)]
    if not incomplete and runs:
        return runs
    known = {value + os.sep for value, _ in runs}
    return runs + [pair for pair in _paths(incomplete, (".pth",)) if pair[0] not in known]


def run_folders(parent: Path = Path("runs")) -> list[Path]:
    """The run folders in a folder, oldest first (their names begin with the time)."""
    return sorted(path.parent for path in parent.glob("*/config.yaml"))


def data(incomplete: str) -> Candidates:
    """Files and folders."""
    return _paths(incomplete)


def folder(incomplete: str) -> Candidates:
    """Folders."""
    return _paths(incomplete, ())


def table(incomplete: str) -> Candidates:
    """CSV files and folders."""
    return _paths(incomplete, (".csv",))


def page(incomplete: str) -> Candidates:
    """HTML files and folders."""
    return _paths(incomplete, (".html",))


def device(incomplete: str) -> Candidates:
    """Devices by name."""
    return [pair for pair in _DEVICES if pair[0].startswith(incomplete)]


def processes(incomplete: str) -> Candidates:
    """Numbers of processes."""
    return [pair for pair in _PROCESSES if pair[0].startswith(incomplete)]


def task(incomplete: str) -> Candidates:
    """Tasks by name, or all."""
    from dbbd_cli.tasks.registry import task_names

    return [(name, "") for name in ["all", *task_names()] if name.startswith(incomplete)]


def setting(ctx: typer.Context, incomplete: str) -> Candidates:
    """Dotted keys of the configuration, and after the `=` the values of a key with a fixed choice.

    If the command line names a configuration or a run, its task's keys are offered, otherwise those of all built-in
    tasks: to look for tasks of other packages takes longer than everything else that a completion does.
    """
    # While an option still lacks its value, the parser leaves arguments in `ctx.args`.
    run = ctx.params.get("target") or next(iter(ctx.args), None)
    return setting_of(_task_of(ctx.params.get("config"), run), incomplete)


def setting_of(task_name: str, incomplete: str) -> Candidates:
    """As `setting`, for the task of this name, or for all built-in tasks if the name is empty."""
    key, equals, typed = incomplete.partition("=")
    fields = list(_fields(task_name))
    if not equals:
        # A key that several tasks share is offered once, with the description of the first.
        found = list({f"{name}=": field.description or "" for name, field in reversed(fields)}.items())[::-1]
    else:
        choices = [
            str(choice)
            for name, field in fields
            if name == key
            for choice in field.examples or _choices(field.annotation)
        ]
        values = [(value, "") for value in dict.fromkeys(choices)]
        if key == "run.device":
            values = _DEVICES
        elif key.endswith(("path", "_dir", "weights")):
            values = values + _paths(typed)
        found = [(f"{key}={value}", meaning) for value, meaning in values]
    return [pair for pair in found if pair[0].startswith(incomplete)]


def _task_of(name: str | None, run: str | None) -> str:
    """The task of the configuration or run that a command line names; empty if unknown."""
    from dbbd_cli.config.shipped import shipped_configs

    if name:
        shipped = shipped_configs().get(str(name).removesuffix(".yaml"))
        path = os.path.expanduser(name)  # noqa: PTH111 - a Path raises for an unknown user
        # A Path raises for names that are too long.
        return _task_in(Path(path) if shipped is None or os.path.isfile(path) else shipped)  # noqa: PTH113
    if not run:
        return ""
    folder = os.path.expanduser(run)  # noqa: PTH111
    return _task_in((Path(folder) if os.path.isdir(folder) else Path(folder).parent) / "config.yaml")  # noqa: PTH112


def _task_in(path: Path) -> str:
    """The task that a configuration names, found by a regular expression because importing YAML would take longer."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return ""
    found = re.search(r"""^task:[ \t]*["']?(\w+)""", text, re.MULTILINE)
    return found[1] if found else ""


def _fields(task_name: str) -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its field, of one task, or of all built-in tasks if the task is unknown."""
    from dbbd_cli.config.sections import settings
    from dbbd_cli.tasks.configs import SCHEMAS
    from dbbd_cli.tasks.registry import BUILT_IN

    for task in [task_name] if task_name and task_name in SCHEMAS else BUILT_IN:
        with suppress(ConfigError):  # the task of another package that cannot be imported
            yield from ((".".join(key), field) for key, field in settings(SCHEMAS[task]))


def _choices(annotation: Any) -> list[str]:
    """The values that a type allows, if they can be listed."""
    if annotation is bool:
        return ["true", "false"]
    if annotation is type(None):
        return ["null"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) in (Union, UnionType):
        return [value for part in get_args(annotation) for value in _choices(part)]
    return []


def _is_plain(name: str) -> bool:
    """Whether a name contains nothing that a shell or a terminal would interpret; other names are not offered."""
    return printable(name) == name and _SPECIAL.isdisjoint(name)


def _paths(incomplete: str, suffixes: tuple[str, ...] | None = None) -> Candidates:
    """Folders and files that begin with what was typed; hidden ones only after a dot.

    Args:
        incomplete: what was typed.
        suffixes: suffixes of the files to offer; None: all files.
    """
    typed_folder, name = os.path.split(incomplete)
    prefix = incomplete[: len(incomplete) - len(name)]
    try:
        entries = sorted(Path(typed_folder or ".").expanduser().iterdir())
    except (OSError, RuntimeError, ValueError):  # RuntimeError: unknown user; ValueError: a NUL
        return []
    found = []
    for entry in entries:
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")) and _is_plain(entry.name):
            if os.path.isdir(entry):  # noqa: PTH112 - a Path raises for a link to a name that is too long
                found.append((prefix + entry.name + os.sep, "folder"))
            elif suffixes is None or entry.suffix in suffixes:
                found.append((prefix + entry.name, "file"))
    return found
