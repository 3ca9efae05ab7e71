"""What the shell offers after a TAB: configurations, their keys, runs, devices.

Each function takes what was typed so far and gives `(value, help)` pairs. A value that ends in `=` or `/` is to
be typed on: the shell scripts put no space after it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import typer

from dbbd_cli.core.text import printable

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Candidates = list[tuple[str, str]]

_MOST_BYTES = 100_000
"""How much of a configuration is searched for its task."""
_OBEYED = frozenset("\"'`$;|&<>(){}*?!#\\")

_DEVICES: Candidates = [
    ("auto", "cuda if there is one, else mps, else cpu"),
    ("cpu", "the processor"),
    ("cuda", "the first NVIDIA or AMD GPU"),
    ("mps", "the GPU of an Apple computer"),
]


def configuration(incomplete: str) -> Candidates:
    """Names of shipped configurations, YAML files and folders."""
    from dbbd_cli.config.shipped import shipped_configs

    shipped = [(name, "shipped configuration") for name in shipped_configs()]
    return [pair for pair in shipped if pair[0].startswith(incomplete)] + _paths(incomplete, (".yaml", ".yml"))


def target(incomplete: str) -> Candidates:
    """Run folders, checkpoint files and folders on the way to them; before anything is typed, the runs in `runs`."""
    runs = [(str(path), "run") for path in run_folders() if str(path).startswith(incomplete) and _is_plain(path.name)]
    if not incomplete and runs:
        return runs
    known = {value + os.sep for value, _ in runs}
    return runs + [pair for pair in _paths(incomplete, (".pth",)) if pair[0] not in known]


def run_folders() -> list[Path]:
    """The run folders in `runs`, oldest first (their names begin with the time)."""
    return sorted(path.parent for path in Path("runs").glob("*/config.yaml"))


def folder(incomplete: str) -> Candidates:
    """Folders."""
    return _paths(incomplete, ())


def device(incomplete: str) -> Candidates:
    """Devices by name."""
    return [pair for pair in _DEVICES if pair[0].startswith(incomplete)]


def setting(ctx: typer.Context, incomplete: str) -> Candidates:
    """Dotted keys of the configuration, then, after the `=`, the values of a key that has a choice of them.

    If the command line names a configuration or a run, they are those of its task, otherwise those of all tasks.
    """
    # While the value of an option is missing, the parser leaves arguments in `ctx.args`.
    run = ctx.params.get("target") or next(iter(ctx.args), None)
    return setting_of(_task_of(ctx.params.get("config"), run), incomplete)


def setting_of(task: str, incomplete: str) -> Candidates:
    """The same for the task of this name, or for all tasks if it is empty."""
    key, equals, typed = incomplete.partition("=")
    fields = list(_fields(task))
    if not equals:
        # A key that several tasks have is offered once, as the first one explains it.
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
    """The task of the configuration, or else of the run, that a command line names; empty if unknown."""
    from dbbd_cli.config.shipped import shipped_configs

    if name:
        shipped = shipped_configs().get(str(name).removesuffix(".yaml"))
        path = os.path.expanduser(name)  # noqa: PTH111 - a Path raises if there is no such user
        # A Path raises if a name is too long.
        return _task_in(Path(path) if shipped is None or os.path.isfile(path) else shipped)  # noqa: PTH113
    if not run:
        return ""
    folder = os.path.expanduser(run)  # noqa: PTH111
    return _task_in((Path(folder) if os.path.isdir(folder) else Path(folder).parent) / "config.yaml")  # noqa: PTH112


def _task_in(path: Path) -> str:
    """The task that a configuration names, found without parsing it as YAML, which would take longer."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return ""
    found = re.search(r"""^task:[ \t]*["']?(\w+)""", text, re.MULTILINE)
    return found[1] if found else ""


def _fields(task: str) -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its field: of one task, or of all tasks if it is not known."""
    from dbbd_cli.config.sections import settings
    from dbbd_cli.tasks.configs import SCHEMAS

    for schema in [SCHEMAS[task]] if task in SCHEMAS else SCHEMAS.values():
        yield from ((".".join(key), field) for key, field in settings(schema))


def _choices(annotation: Any) -> list[str]:
    """The values that a type admits, where they can be listed."""
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
    """Whether a name may stand in a command line as it is: what a shell or a terminal would obey is not offered."""
    return printable(name) == name and _OBEYED.isdisjoint(name)


def _paths(incomplete: str, suffixes: tuple[str, ...] | None = None) -> Candidates:
    """Folders and files that begin with what was typed; hidden ones only if a dot was.

    Files must have one of the suffixes, or with None any.
    """
    typed_folder, name = os.path.split(incomplete)
    prefix = incomplete[: len(incomplete) - len(name)]
    try:
        entries = sorted(Path(typed_folder or ".").expanduser().iterdir())
    except (OSError, RuntimeError, ValueError):  # RuntimeError: the home of an unknown user; ValueError: a NUL
        return []
    found = []
    for entry in entries:
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")) and _is_plain(entry.name):
            if os.path.isdir(entry):  # noqa: PTH112 - a Path raises where a link leads to a name that is too long
                found.append((prefix + entry.name + os.sep, "folder"))
            elif suffixes is None or entry.suffix in suffixes:
                found.append((prefix + entry.name, "file"))
    return found
