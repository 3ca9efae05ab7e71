"""The tasks by name, each imported only when it is needed."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from traceback import walk_tb
from typing import TYPE_CHECKING

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.text import printable
from dbbd_cli.tasks.base import Task

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILT_IN = {
    "image_classification": "dbbd_cli.tasks.image_classification.task:ImageClassification",
    "dbbd": "dbbd_cli.tasks.dbbd.task:Dbbd",
    "segmentation": "dbbd_cli.tasks.segmentation.task:Segmentation",
    "url_classification": "dbbd_cli.tasks.url_classification.task:UrlClassification",
}
ENTRY_POINTS = "dbbd.tasks"
"""The group of entry points in which other packages register their tasks, as "module:Class"."""
_PARTS = {part for part in [*Task.__annotations__, *vars(Task)] if not part.startswith("_")}


def task_names() -> list[str]:
    """The names of all tasks, those of other packages last."""
    return [*BUILT_IN, *(name for name in sorted(_of_other_packages()) if name not in BUILT_IN)]


@cache
def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none, or its package is broken.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        task: Task = getattr(import_module(module), attribute)()
        return task
    found = _of_other_packages().get(name)
    if found is None:
        raise ConfigError(f"there is no task '{printable(name)}'", hint=f"choose one of: {', '.join(task_names())}")
    try:
        task = found.load()()
        if missing := sorted(_PARTS - set(dir(task))):
            raise TypeError(f"it has no {', '.join(missing)}")
        if task.name != name:
            raise ValueError(f"it is named {task.name!r}")
    except Exception as error:  # third-party code may raise anything
        raise ConfigError(
            f"the task {name} ({found.value}) cannot be used: {type(error).__name__}: {error}",
            hint=f"update or uninstall its package, {_distribution(found)}",
        ) from error
    return task


def package_behind(error: BaseException) -> str:
    """The package of a task in whose code an error arose, such as "toy-regression 1.0"; empty if in this package."""
    packages = {re.split("[.:]", point.value)[0]: _distribution(point) for point in _of_other_packages().values()}
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]
    ours = [name for name in (module.partition(".")[0] for module in modules) if name in ("dbbd_cli", *packages)]
    return packages.get(ours[-1], "") if ours else ""


def _distribution(point: EntryPoint) -> str:
    assert point.dist is not None, "entry points are those of installed packages"
    return f"{point.dist.name} {point.dist.version}"


@cache
def _of_other_packages() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # takes 30 ms

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
