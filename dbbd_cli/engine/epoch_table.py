"""The table that grows by one row per epoch while a run trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dbbd_cli.core.metrics import is_share, metric_words


class EpochTable:
    """Formats a row per epoch, below a heading that names the columns.

    Args:
        epochs: epochs of the whole run.
        metrics: names of the metrics, in order.
        monitor: the validation metric that decides which epoch is best; it gets a column if it is not in `metrics`.
    """

    def __init__(self, epochs: int, metrics: Iterable[str], monitor: str = "") -> None:
        self.epochs = epochs
        self.metrics = list(metrics)
        self.monitor = [monitor] if monitor and monitor not in self.metrics else []
        self.titles = [
            # Only the last word of a long name, so that a row fits into 80 columns.
            f"{split} {name}" if position == 0 else metric_words(name if len(name) < 10 else name.rpartition("_")[2])
            for split in ("train", "val")
            for position, name in enumerate(self.metrics)
        ] + ["val " + metric_words(name) for name in self.monitor]
        self.width = max(len("epoch"), 2 * len(str(epochs)) + 1)
        self._started = False

    def lines(self, row: Mapping[str, Any], *, seconds: float, note: str = "") -> list[str]:
        """The lines to print for an epoch: the heading before the first one, then its row.

        Args:
            row: the epoch, as in history.jsonl.
            seconds: how long it took.
            note: text at the end of the row.
        """
        heading = [] if self._started else [self.heading()]
        self._started = True
        return [*heading, self.row(row, seconds=seconds, note=note)]

    def heading(self) -> str:
        """The names of the columns."""
        columns = [f"{title:>{_width(title)}}" for title in self.titles]
        return "  ".join([f"{'epoch':>{self.width}}", *columns, f"{'lr':>8}", f"{'time':>7}"])

    def row(self, row: Mapping[str, Any], *, seconds: float, note: str = "") -> str:
        """The row of one epoch."""
        values = [describe_metric(name, row[split][name]) for split in ("train", "val") for name in self.metrics]
        values += [describe_metric(name, row["val"][name]) for name in self.monitor]
        columns = [f"{text:>{_width(title)}}" for title, text in zip(self.titles, values, strict=True)]
        time = f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
        epoch = f"{row['epoch']}/{self.epochs}"
        return "  ".join(
            [f"{epoch:>{self.width}}", *columns, f"{row['learning_rate']:>8.3g}", f"{time:>7}", note]
        ).rstrip()


def _width(title: str) -> int:
    return max(len(title), 8)


def describe_metric(name: str, value: float) -> str:
    """A metric as text: accuracies as percentages, everything else with four decimals."""
    return f"{value:.2%}" if is_share(name) else f"{value:.4f}"
