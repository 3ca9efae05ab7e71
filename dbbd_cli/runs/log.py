"""The logs of a run: `history.jsonl`, TensorBoard events and `run.log`."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core import compat
from dbbd_cli.core.files import open_to_append, read_lines, write_text
from dbbd_cli.core.paths import without_secrets
from dbbd_cli.core.text import printable
from dbbd_cli.runs.event_files import open_event_file
from dbbd_cli.runs.folder import HISTORY, LOG

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def finite(value: Any) -> Any:
    """The value, with None in place of every number that JSON cannot represent."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class RunLog:
    """Writes `history.jsonl`, the TensorBoard events and `run.log` of a run.

    Everything in `history.jsonl` is reproducible; times go to the other two.

    Args:
        folder: the run folder.
        step: optimizer steps so far. Later entries, left by a run that was killed between checkpoints, are removed.
        history: the finished epochs, as the checkpoint has them.
        command: the command line, for `run.log`.
    """

    def __init__(
        self, folder: Path, *, step: int, history: Sequence[Mapping[str, Any]], command: Sequence[str]
    ) -> None:
        self.folder = folder
        self._step = step
        self._values_of_step = restore_history(folder / HISTORY, step, history)
        # The last step may have ended an epoch that was validated and logged, but not saved.
        self._unsaved_from = step + 1 if history and history[-1]["step"] == step else step
        self._history = open_to_append(folder / HISTORY)
        self._log = open_to_append(folder / LOG)
        self._show_error = threading.excepthook
        threading.excepthook = self._ignore_event_writer
        self._board: SummaryWriter | None = None
        words = " ".join(map(without_secrets, command))
        self.text(f"$ {words}" if command else f"process {os.getpid()}, python {sys.version.split()[0]}")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            with suppress(OSError):  # the disk may be what failed
                self.text(f"ended by {type(error).__name__}: {error}")
        with suppress(OSError):
            self.close()

    def _entry(self, row: Mapping[str, Any]) -> None:
        self._history.write(json.dumps(finite(row)) + "\n")
        self._history.flush()

    def logged_step(self, row: Mapping[str, Any]) -> None:
        """Add a step to the history and to the TensorBoard events."""
        self._entry(row)
        self.scalars(row["step"], {"learning_rate": row["learning_rate"], "train/grad_norm": row["grad_norm"]})

    def epoch(self, row: Mapping[str, Any], seconds: float) -> None:
        """Add an epoch to the history and to the TensorBoard events; its learning rate belongs to the steps."""
        self._entry(row)
        for split in ("train", "val"):
            self.scalars(row["step"], {f"{split}/{name}": value for name, value in row[split].items()})
        self.scalars(row["step"], {"seconds_per_epoch": seconds})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the TensorBoard events."""
        events = self._events()
        for name, value in values.items():
            events.add_scalar(name, value, step)

    def hyperparameters(self, values: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        """Add the settings and the final metrics of a run that ends after `step` to the TensorBoard events.

        The metrics are logged one step later, so that those of a resumed run replace them.
        """
        events = self._events()
        plain = {
            printable(key): value if isinstance(value, (bool, int, float)) else printable(str(value))
            for key, value in values.items()
        }
        best = {f"best/{name}": value for name, value in metrics.items()}
        compat.add_hyperparameters(events, plain, best)
        self.scalars(step + 1, best)
        events.flush()  # an error while closing would go unnoticed

    def _events(self) -> SummaryWriter:
        if self._board is None:
            # Only when there is something to write: TensorBoard is slow to import, and must not delay the first step.
            self._board = open_event_file(self.folder, self._unsaved_from)
            if self._unsaved_from == self._step:
                self.scalars(self._step, self._values_of_step)
        return self._board

    def text(self, text: str) -> None:
        """Add a line with the time to `run.log`; line breaks in it are escaped."""
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(text)}\n")
        self._log.flush()

    def sync(self) -> None:
        """Flush everything logged to the disk: a checkpoint must never be ahead of the logs."""
        if self._board is not None:
            self._board.flush()
        self._history.flush()
        os.fsync(self._history.fileno())

    def close(self) -> None:
        """Close the files."""
        try:
            if self._board is not None:
                self._board.close()
        finally:
            threading.excepthook = self._show_error
            self._history.close()
            self._log.close()

    def _ignore_event_writer(self, report: threading.ExceptHookArgs) -> None:
        # The thread that writes events reports its error to the next call that adds or flushes.
        if type(report.thread).__name__ != "_AsyncWriterThread":
            self._show_error(report)


class NoLog(RunLog):
    """The log of a process that writes none, because another one does."""

    def __init__(self) -> None:
        """Open nothing."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Close nothing."""

    def logged_step(self, row: Mapping[str, Any]) -> None:
        """Write nothing."""

    def epoch(self, row: Mapping[str, Any], seconds: float) -> None:
        """Write nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write nothing."""

    def text(self, text: str) -> None:
        """Write nothing."""

    def sync(self) -> None:
        """Write nothing."""


def restore_history(path: Path, step: int, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Make the file hold its steps up to `step` and the epochs of the checkpoint; return the scalars of `step`."""
    scalars: dict[str, float] = {}
    rows = [(row["step"], True, json.dumps(finite(row))) for row in history]
    for line in read_lines(path) if path.is_file() else ():
        try:
            row = json.loads(line)
            if row["kind"] == "step" and row["step"] <= step:
                if row["step"] == step:
                    values = {"learning_rate": row.get("learning_rate"), "train/grad_norm": row.get("grad_norm")}
                    scalars = {name: value for name, value in values.items() if type(value) is float}
                rows.append((row["step"], False, json.dumps(finite(row))))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a run that was killed while writing it
    rows.sort(key=lambda row: row[:2])
    write_text(path, "".join(f"{line}\n" for _, _, line in rows))
    return scalars
