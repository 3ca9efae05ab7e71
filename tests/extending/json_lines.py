"""URLs as JSON Lines: an object in each line."""

from __future__ import annotations

import json
from pathlib import Path

from dbbd_cli.core.errors import DataError


def read_json_lines(path: Path, url_column: str, label_column: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The (URL, class) of each line, and what is wrong with the lines that have none.

    Raises:
        DataError: the file cannot be read.
    """
    samples, problems = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="check data.path") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            samples.append((str(row[url_column]), str(row[label_column])))
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"{path.name} line {number}: {error}")
    return samples, problems
