"""List images from a table of paths, classes and, if it has them, splits. Nothing is decoded."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dbbd_cli.core.text import printable
from dbbd_cli.data.candidates import Candidates, Source, classes_of_table
from dbbd_cli.data.images.formats import is_image_name, is_unread_name, suffix_of, ways_to_read
from dbbd_cli.data.problems import short, why
from dbbd_cli.data.splitting import SPLIT_OF
from dbbd_cli.data.table import Column, read_table


def list_table(
    path: Path, path_column: str, label_column: str, split_column: str | None, *, needs_splits: bool = False
) -> Source:
    """List the images of a table, whose paths are relative to its folder.

    Args:
        path: the table.
        path_column: column of the paths.
        label_column: column of the classes.
        split_column: column of the splits; None if it does not count.
        needs_splits: whether the table must have that column.

    Raises:
        DataError: the table cannot be read (see `read_table`), or has fewer than two classes or too many.
    """
    columns = [
        Column(path_column, "path_column", "path", instead="for a list of URLs, --set data.source=urls"),
        Column(label_column, "label_column", "class"),
    ]
    if split_column is not None:
        columns.append(Column(split_column, "split_column", "split", optional=not needs_splits))
    rows, problems = read_table(path, columns)
    folder = _Folder(path.parent)
    samples = []
    for given, name, *split in rows:
        place = given.removeprefix("./")
        problem = folder.problem(place)
        if "/" in name:  # the first slash of a key ends the name of its class
            problem = f"its class, {printable(short(name))}, has a slash"
        elif split and split[0].lower() not in SPLIT_OF:
            problem = f"its split is {printable(short(split[0]))}; expected train, val or test"
        if problem:
            problems.append(f"{printable(short(given))}: {problem}")
        else:
            samples.append((name, place, SPLIT_OF[split[0].lower()] if split else None))
    names = classes_of_table(path, (name for name, _, _ in samples), label_column, "image", problems)
    label_of = {name: label for label, name in enumerate(names)}
    samples.sort()
    candidates = Candidates(
        [f"{name}/{place}" for name, place, _ in samples],
        [label_of[name] for name, *_ in samples],
        [split for *_, split in samples],
    )
    return Source("table", names, candidates, (path.parent,) * len(names), problems, 0)


class _Folder:
    """The folder that the paths of a table must not leave."""

    def __init__(self, path: Path) -> None:
        self.path = os.path.realpath(path)
        self._is_inside: dict[str, bool] = {}

    def problem(self, place: str) -> str:
        """Why a path cannot be used; empty if it can."""
        parts = place.split("/")
        # On Windows a backslash also separates folders, and a colon selects a drive.
        if any(part in ("", ".", "..") for part in parts) or (os.name == "nt" and set("\\:") & set(place)):
            return "is not a path relative to the folder of the table, such as a/b.png"
        if is_unread_name(place):
            ways = ways_to_read([suffix_of(place)]).values()
            return f"is in an unsupported format{''.join(f'; to read it: {way}' for way in ways)}"
        if not is_image_name(place):
            return "is not an image, by the end of its name"
        full = os.path.join(self.path, *parts)  # noqa: PTH118 - a Path object per file is slow
        above, _, _ = full.rpartition(os.sep)
        if above not in self._is_inside:
            self._is_inside[above] = self._holds(above)
        try:
            kind = os.lstat(full).st_mode
        except OSError as error:
            return f"cannot be opened: {why(error)}"
        if not self._is_inside[above] or (stat.S_ISLNK(kind) and not self._holds(full)):
            return "is reached by a link that leads out of the folder of the table"
        if not (stat.S_ISREG(kind) or os.path.isfile(full)):  # noqa: PTH113
            return "is not a file"
        return ""

    def _holds(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == self.path or real.startswith(os.path.join(self.path, ""))  # noqa: PTH118
