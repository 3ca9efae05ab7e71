"""Reads run folders: the history, and what the configuration says of name, task and data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbbd_cli.config.yaml_text import read_yaml
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.files import read_file, read_lines
from dbbd_cli.core.metrics import best_of, describe_with_best
from dbbd_cli.report.check import evaluation_problem, is_count, is_number
from dbbd_cli.report.text import distinct, visible

_MOST_BYTES = 64 * 2**20
_MOST_CONFIG_BYTES = 1_000_000
_LONGEST_LINE = 200_000
_RESTORE = "restore it from a copy of the run folder, or check its permissions"


@dataclass(frozen=True)
class RunHistory:
    """What is known of one run.

    Attributes:
        folder: the run folder.
        name: `run.name` of its configuration.
        task: kind of training, such as `image_classification`.
        synthetic: whether the data were made up.
        epochs: epoch rows in order of `epoch`, at least one, each with `epoch`, `step`, `learning_rate`, `train`
            and `val` (metric name to value). A value that is not finite is None.
        steps: step rows in order of `step`, each with `epoch`, `step`, `learning_rate` and metrics.
        best_epoch: the epoch of the best model, None where no epoch was marked.
        metric: the validation metric that decided which epoch is best.
        warmup_epochs: epochs over which the learning rate rose.
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
    """Reads the history of a run. A last line torn by a crash is left out.

    Raises:
        CheckpointError: the folder is not a run folder, or one of its files is missing or damaged.
    """
    config = _read_config(folder)
    epochs, steps = _read_history(folder / "history.jsonl")
    name, task = _text(config, folder, "run", "name"), _text(config, folder, "task")
    metric = _text(config, folder, "checkpoint", "metric")  # earlier versions had no other than the loss
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


def value_at_best_epoch(run: RunHistory, metric: str, describe: Callable[[Any], str]) -> str:
    """The validation value of a metric at the best epoch in words; see `describe_with_best`.

    Args:
        run: the run.
        metric: name of the metric.
        describe: puts a value into words.
    """
    value = next((row["val"].get(metric) for row in run.epochs if row["epoch"] == run.best_epoch), None)
    return describe_with_best(metric, value, best_of(metric, run.epochs), describe)


def run_labels(runs: Sequence[RunHistory], limit: int = 40) -> list[str]:
    """A short label for each run, no two alike: its name, or its folder's name where names repeat."""
    names = [run.name for run in runs]
    labels = [run.name if names.count(run.name) == 1 else run.folder.resolve().name for run in runs]
    return distinct([visible(label, limit) for label in labels])


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The content of a run folder's `evaluation.json`; None where the run was not evaluated.

    Raises:
        CheckpointError: the file is damaged or of another version.
    """
    path = folder / "evaluation.json"
    if not os.path.exists(path):  # noqa: PTH110 - a Path raises where a link leads to a name that is too long
        return None
    try:
        evaluation = _parse_json(_read_text(path))
        problem = evaluation_problem(evaluation)
    except ValueError as error:
        problem = f"not JSON ({error})"
    if problem:
        raise CheckpointError(f"{path} is damaged: {problem}", hint=f"write it again with `dbbd evaluate {folder}`")
    return dict(evaluation)


def _read_text(path: Path, limit: int = _MOST_BYTES) -> str:
    """The text of a file of a run folder, with U+FFFD where it is not UTF-8."""
    return read_bytes(path, limit).decode("utf-8", errors="replace")


def read_bytes(path: Path, limit: int = _MOST_BYTES) -> bytes:
    """The content of a file of a run folder.

    Raises:
        CheckpointError: it is not there, is larger than `limit` bytes, or cannot be read.
    """
    with _reading(path):
        return read_file(path, limit)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        folder = path.parent
        problem = f"is not a run folder: it has no {path.name}" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {problem}", hint="give a run folder, as printed by `dbbd train`") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", hint=_RESTORE) from error


def _parse_json(text: str) -> Any:
    """JSON, with None for NaN and Infinity."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        document = read_yaml(_read_text(path, _MOST_CONFIG_BYTES), str(path))
    except ConfigError as error:
        raise _damaged_config(error.message) from error
    if document.problems:
        problem = document.problems[0]
        raise _damaged_config(f"{path}, line {problem.place}: {problem.what}")
    if not isinstance(document.values, dict):
        raise _damaged_config(f"{path}: not a configuration")
    return document.values


def _text(config: dict[str, Any], folder: Path, *keys: str) -> str:
    """The text at a key, or at a key within a section, of the configuration; empty where there is none."""
    value: Any = config
    for key in keys:
        if not isinstance(value, dict):
            raise _damaged_config(f"{folder / 'config.yaml'}: {keys[0]} is not a section")
        value = value.get(key)
        if value is None:
            return ""
    if not isinstance(value, str):
        raise _damaged_config(f"{folder / 'config.yaml'}: {'.'.join(keys)} is not a text")
    return value


def _warmup_epochs(config: dict[str, Any]) -> float:
    training = config.get("training")
    value = training.get("warmup_epochs") if isinstance(training, dict) else None
    return max(0.0, float(value)) if value is not None and is_number(value) else 0.0


def _damaged_config(message: str) -> CheckpointError:
    return CheckpointError(message, hint="the file was damaged after the run; restore it from a copy")


def _read_history(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    # A resumed run logs again what came after its checkpoint: the later row of an epoch or step is the one that counts.
    epochs: dict[int, dict[str, Any]] = {}
    steps: dict[int, dict[str, Any]] = {}
    torn = 0  # the number of a line that is no JSON: a crash tears the last
    with _reading(path):
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            if torn or len(line) > _LONGEST_LINE:
                raise _damaged(path, torn or number, "not JSON" if torn else "too long")
            try:
                row = _parse_json(line)
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
        raise CheckpointError(f"{path}: no epoch has ended yet", hint="draw again when the first epoch is over")
    return [epochs[key] for key in sorted(epochs)], [steps[key] for key in sorted(steps)]


def _problem(row: Any) -> str:
    """What is wrong with a history row; empty where nothing is."""
    if not isinstance(row, dict) or "kind" not in row:
        return "not a history row"
    if row["kind"] not in ("epoch", "step"):
        return ""
    for key in ("epoch", "step"):
        if not is_count(row.get(key)):
            return f"{key} is not a count"
    measured = {"learning_rate": row.get("learning_rate")}
    if row["kind"] == "step":
        measured |= {name: value for name, value in row.items() if isinstance(value, (int, float))}
    else:
        for split in ("train", "val"):
            metrics = row.setdefault(split, {})
            if not isinstance(metrics, dict):
                return f"{split} does not hold metrics"
            measured |= {f"{split} {name}": value for name, value in metrics.items()}
    wrong = [name for name, value in measured.items() if value is not None and not is_number(value)]
    if wrong:
        return f"{visible(wrong[0], 40)} is not a number of usable size"
    return "learning_rate is negative" if (row.get("learning_rate") or 0) < 0 else ""


def _damaged(path: Path, number: int, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}, line {number}: {problem}", hint="remove that line to draw the rest, or restore the file from a copy"
    )
