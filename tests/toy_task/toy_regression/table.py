"""Tables of numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from dbbd_cli.core.errors import DataError

NUM_SYNTHETIC_ROWS = 200


def read_table(path: Path, target: str) -> np.ndarray:
    """The rows of a CSV file with a header, `(N, D + 1)`; the target is the last column.

    Raises:
        DataError: the file cannot be read, has no such column, or something in it is not a number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or ())
            if target not in names:
                raise DataError(f"{path} has no column {target!r}", hint="name one with --set data.target=COLUMN")
            columns = [*(name for name in names if name != target), target]
            return np.array([[float(row[name]) for name in columns] for row in reader])
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a table of numbers: {error}", hint="fix the file") from error


def synthetic_table(seed: int) -> np.ndarray:
    """Rows whose target is a function of two features, with noise; `(N, 3)`."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(NUM_SYNTHETIC_ROWS, 2))
    target = features[:, 0] + np.sin(2 * features[:, 1]) + 0.1 * random.normal(size=NUM_SYNTHETIC_ROWS)
    return np.column_stack([features, target])
