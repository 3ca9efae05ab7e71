"""List images from a table of paths, classes and, if it has them, splits. Nothing is decoded."""

from __future__ import annotations

import os
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.candidates import Candidate, Source, check_number_of_classes
from dbbd_cli.data.images.formats import is_image_name
from dbbd_cli.data.problems import shortened
from dbbd_cli.data.table import Column, read_table

_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def list_table(path: Path, path_column: str, label_column: str, split_column: str | None) -> Source:
    """List the images of a table, whose paths are relative to its folder.

    Raises:
        DataError: the table cannot be read (see `read_table`), or has fewer than two classes or too many.
    """
    columns = [
        Column(path_column, "path_column", "path", instead="; for a list of URLs, --set data.source=urls"),
        Column(label_column, "label_column", "class"),
    ]
    if split_column is not None:
        columns.append(Column(split_column, "split_column", "split", optional=True))
    rows, problems = read_table(path, columns)
    folder = _Folder(path.parent)
    samples = []
    for place, name, *split in rows:
        problem = folder.problem(place)
        if "/" in name:  # the first slash of a key ends the name of its class
            problem = f"its class, {printable(name)}, has a slash"
        elif split and split[0].lower() not in _SPLIT_OF:
            problem = f"its split is {printable(split[0])}; expected train, val or test"
        if problem:
            problems.append(f"{printable(place)}: {problem}")
        else:
            samples.append((name, place, _SPLIT_OF[split[0].lower()] if split else None))
    names = tuple(sorted({name for name, _, _ in samples}))
    if len(names) < 2:
        found = f"only the class {names[0]}" if names else "no usable row"
        raise DataError(
            f"{path} has {found}: a classifier needs at least two classes",
            hint=f"check that the column {label_column} contains the class of each image",
            details=shortened(problems),
        )
    check_number_of_classes(
        path,
        names,
        f"check that the column {label_column} contains classes; choose another with --set data.label_column=NAME",
    )
    label_of = {name: label for label, name in enumerate(names)}
    candidates = [Candidate(f"{name}/{place}", label_of[name], split) for name, place, split in sorted(samples)]
    return Source("table", names, candidates, (path.parent,) * len(names), problems, 0)


class _Folder:
    """The folder that the paths of a table must not leave."""

    def __init__(self, path: Path) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - without following links
        self._real = os.path.realpath(path)
        self._is_inside: dict[str, bool] = {}

    def problem(self, place: str) -> str:
        """Why a path cannot be used; empty if it can."""
        parts = place.split("/")
        # On Windows a backslash also separates folders, and a colon selects a drive.
        if any(part in ("", ".", "..") for part in parts) or (os.name == "nt" and set("\\:") & set(place)):
            return "is not a path below the folder of the table, with slashes between folders"
        if not is_image_name(place):
            return "is not an image, by the end of its name"
        full = os.path.join(self.path, *parts)  # noqa: PTH118 - a Path object per file is slow
        above, _, _ = full.rpartition(os.sep)
        if above not in self._is_inside:
            self._is_inside[above] = self._holds(above)
        if not self._is_inside[above] or (os.path.islink(full) and not self._holds(full)):  # noqa: PTH114
            return "is reached by a link that leads out of the folder of the table"
        return ""

    def _holds(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == self._real or real.startswith(os.path.join(self._real, ""))  # noqa: PTH118
