"""The table that grows by one row per epoch while a run trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dbbd_cli.core.metrics import is_share


class EpochTable:
    """Words a row per epoch, under a heading that names the columns.

    Args:
        epochs: epochs of the whole run.
        metrics: names of the metrics, in order.
        deciding: the validation metric that decides which epoch is best; gets a column if it is not among the others.
    """

    def __init__(self, epochs: int, metrics: Iterable[str], deciding: str = "") -> None:
        self.epochs = epochs
        self.metrics = list(metrics)
        self.deciding = [deciding] if deciding and deciding not in self.metrics else []
        self.titles = [
            # The last word says enough beside the others, and a row fits into 80 columns.
            f"{split} {name}" if position == 0 else name.rpartition("_")[2].replace("top1", "top-1")
            for split in ("train", "val")
            for position, name in enumerate(self.metrics)
        ] + ["val " + name.replace("_", " ").replace("top1", "top-1") for name in self.deciding]
        self.width = max(len("epoch"), 2 * len(str(epochs)) + 1)

    def heading(self) -> str:
        """The names of the columns."""
        columns = [f"{title:>{self._width_of(title)}}" for title in self.titles]
        return "  ".join([f"{'epoch':>{self.width}}", *columns, f"{'lr':>8}", f"{'time':>7}"])

    def row(
        self,
        epoch: int,
        train: Mapping[str, float],
        val: Mapping[str, float],
        *,
        learning_rate: float,
        seconds: float,
        note: str = "",
    ) -> str:
        """One epoch; `note` is written behind it."""
        values = [describe_metric(name, split[name]) for split in (train, val) for name in self.metrics]
        values += [describe_metric(name, val[name]) for name in self.deciding]
        columns = [f"{text:>{self._width_of(title)}}" for title, text in zip(self.titles, values, strict=True)]
        time = f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
        parts = [f"{f'{epoch}/{self.epochs}':>{self.width}}", *columns, f"{learning_rate:>8.3g}", f"{time:>7}", note]
        return "  ".join(parts).rstrip()

    @staticmethod
    def _width_of(title: str) -> int:
        return max(len(title), 8)


def describe_metric(name: str, value: float) -> str:
    """A metric for people: shares of correct answers in percent, everything else with four decimals."""
    return f"{value:.2%}" if is_share(name) else f"{value:.4f}"
