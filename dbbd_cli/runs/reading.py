"""Read a run folder: its history, and the name, task and data in its configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbbd_cli.config.yaml_text import read_yaml
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.files import read_file, read_lines
from dbbd_cli.core.text import printable
from dbbd_cli.runs.folder import CONFIG, HISTORY

MAX_COUNT = 10**12
"""Sums of this many counts still fit into 64 bits."""
MAX_NUMBER = 1e100
"""Far beyond the range of float32, and far from where the arithmetic of plot axes overflows."""
_MAX_BYTES = 64 * 2**20
_MAX_CONFIG_BYTES = 1_000_000
_MAX_LINE = 200_000


@dataclass(frozen=True)
class RunHistory:
    """The recorded history of one run.

    Attributes:
        folder: the run folder.
        name: `run.name` of its configuration.
        task: the name of its task, such as `image_classification`.
        synthetic: whether the data is synthetic.
        epochs: epoch rows in order of `epoch`, at least one, each with `epoch`, `step`, `learning_rate`, `train`
            and `val` (metric name to value). Non-finite values are None.
        steps: step rows in order of `step`, each with `epoch`, `step`, `learning_rate` and metrics.
        best_epoch: the epoch of the best model, None if no epoch was marked.
        metric: the validation metric that decided which epoch is best.
        warmup_epochs: epochs of learning-rate warm-up.
    """

    folder: Path
    name: str
    task: str
    synthetic: bool
    epochs: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    best_epoch: int | None
    metric: str = "loss"
    warmup_epochs: float = 0.0


def read_run(folder: Path) -> RunHistory:
    """Read the history of a run. A last line torn by a crash is dropped.

    Raises:
        CheckpointError: the folder is not a run folder, or one of its files is missing or damaged.
    """
    config = _read_config(folder)
    epochs, steps = _read_history(folder / HISTORY)
    name, task = _text(config, folder, "run", "name"), _text(config, folder, "task")
    metric = _text(config, folder, "checkpoint", "metric")  # earlier versions knew only the loss
    best = [row["epoch"] for row in epochs if row.get("best") is True]
    return RunHistory(
        folder=folder,
        name=name or folder.resolve().name,
        task=task,
        synthetic=_text(config, folder, "data", "source") == "synthetic",
        epochs=epochs,
        steps=steps,
        best_epoch=best[-1] if best else None,
        metric=metric if any(row["val"].get(metric) is not None for row in epochs) else "loss",
        warmup_epochs=_warmup_epochs(config),
    )


def read_bytes(path: Path, limit: int = _MAX_BYTES) -> bytes:
    """Read a file of a run folder.

    Raises:
        CheckpointError: it is missing, larger than `limit` bytes, or unreadable.
    """
    with _reading(path):
        return read_file(path, limit)


def parse_json(text: str) -> Any:
    """Parse JSON, with None for NaN and Infinity.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        folder = path.parent
        problem = f"is not a run folder: it has no {path.name}" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {problem}", hint="pass a run folder, as printed by `dbbd train`") from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}",
            hint="restore it from a copy of the run folder, or check its permissions",
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    text = read_bytes(path, _MAX_CONFIG_BYTES).decode("utf-8", errors="replace")
    try:
        document = read_yaml(text, str(path))
    except ConfigError as error:
        raise _damaged_config(error.message) from error
    if document.problems:
        problem = document.problems[0]
        raise _damaged_config(f"{path}, line {problem.place}: {problem.what}")
    if not isinstance(document.values, dict):
        raise _damaged_config(f"{path}: not a configuration")
    return document.values


def _text(config: dict[str, Any], folder: Path, *keys: str) -> str:
    """The text at a key, or at a key within a section; empty if there is none."""
    value: Any = config
    for key in keys:
        if not isinstance(value, dict):
            raise _damaged_config(f"{folder / CONFIG}: {keys[0]} is not a section")
        value = value.get(key)
        if value is None:
            return ""
    if not isinstance(value, str):
        raise _damaged_config(f"{folder / CONFIG}: {'.'.join(keys)} is not text")
    return value


def _warmup_epochs(config: dict[str, Any]) -> float:
    training = config.get("training")
    value = training.get("warmup_epochs") if isinstance(training, dict) else None
    return max(0.0, float(value)) if value is not None and _is_number(value) else 0.0


def _damaged_config(message: str) -> CheckpointError:
    return CheckpointError(message, hint="the file was damaged after the run; restore it from a copy")


def _read_history(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    # A resumed run logs the steps after its checkpoint again: the later row of an epoch or step counts.
    epochs: dict[int, dict[str, Any]] = {}
    steps: dict[int, dict[str, Any]] = {}
    torn = 0  # the number of a line that is not JSON; a crash can tear only the last one
    with _reading(path):
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            if torn or len(line) > _MAX_LINE:
                raise _damaged(path, torn or number, "not JSON" if torn else "too long")
            try:
                row = parse_json(line)
            except ValueError:
                torn = number
                continue
            problem = _problem(row)
            if problem:
                raise _damaged(path, number, problem)
            if row["kind"] == "epoch":
                epochs[row["epoch"]] = row
            elif row["kind"] == "step":
                steps[row["step"]] = row
    if not epochs:
        raise CheckpointError(f"{path}: no epoch is finished yet", hint="try again after the first epoch")
    return [epochs[key] for key in sorted(epochs)], [steps[key] for key in sorted(steps)]


def _problem(row: Any) -> str:
    """The first problem of a history row; empty if there is none."""
    if not isinstance(row, dict) or "kind" not in row:
        return "not a history row"
    if row["kind"] not in ("epoch", "step"):
        return ""
    for key in ("epoch", "step"):
        if not _is_count(row.get(key)):
            return f"{key} is not a count"
    values = {"learning_rate": row.get("learning_rate")}
    if row["kind"] == "step":
        values |= {name: value for name, value in row.items() if isinstance(value, (int, float))}
    else:
        for split in ("train", "val"):
            metrics = row.setdefault(split, {})
            if not isinstance(metrics, dict):
                return f"{split} does not contain metrics"
            values |= {f"{split} {name}": value for name, value in metrics.items()}
    wrong = [name for name, value in values.items() if value is not None and not _is_number(value)]
    if wrong:
        return f"{printable(wrong[0])[:40]} is not a number within ±{MAX_NUMBER:g}"
    return "learning_rate is negative" if (row.get("learning_rate") or 0) < 0 else ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= MAX_NUMBER  # False for NaN


def _damaged(path: Path, number: int, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}, line {number}: {problem}", hint="remove that line to plot the rest, or restore the file from a copy"
    )
