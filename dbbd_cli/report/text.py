"""Text for figures, tables and the terminal: names from data, made safe and short, and numbers with units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dbbd_cli.core.metrics import best_of, describe_with_best, is_share, metric_words
from dbbd_cli.core.text import capitalized, printable

if TYPE_CHECKING:
    from dbbd_cli.runs.reading import RunHistory

MISSING = "-"
"""Shown in place of a missing value."""


def visible(text: str, limit: int | None = None) -> str:
    """The text with misleading characters escaped, shortened in the middle to `limit` characters."""
    shown = printable(text)
    if limit is None or len(shown) <= limit:
        return shown
    # Names of one family tend to differ at the end as much as at the start: keep both.
    head = limit // 2
    return f"{shown[:head]}…{shown[len(shown) - (limit - head - 1) :]}"


def distinct(labels: list[str]) -> list[str]:
    """The labels, with a number appended to repeated ones."""
    seen: set[str] = set()
    result = []
    for label in labels:
        candidate, count = label, 1
        while candidate in seen:
            count += 1
            candidate = f"{label} ({count})"
        seen.add(candidate)
        result.append(candidate)
    return result


def run_labels(runs: Sequence[RunHistory], limit: int = 40) -> list[str]:
    """A short, distinct label for each run: its name, or its folder's name if names repeat."""
    names = [run.name for run in runs]
    labels = [run.name if names.count(run.name) == 1 else run.folder.resolve().name for run in runs]
    return distinct([visible(label, limit) for label in labels])


def words(name: str) -> str:
    """A metric name as a title: `region_loss` is `Region loss`, `roc_auc` is `ROC AUC`."""
    text = metric_words(name)
    return text if text.startswith("mIoU") else capitalized(text)


def task_title(name: str) -> str:
    """The name of a task as a title: `image_classification` is `Image classification`; a single word is kept."""
    return words(name) if "_" in name else visible(name, 60)


def count(value: float | None) -> str:
    """A whole number with thousands separators: `51,539,906`."""
    return MISSING if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 4) -> str:
    """A number with a fixed number of decimals; in scientific notation if it is tiny or huge: `0.6931`, `1.234e-05`."""
    if value is None or math.isnan(value):
        return MISSING
    if value != 0 and math.isfinite(value) and not 10**-digits <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{digits}f}"


def significant(value: float | None) -> str:
    """A number of any magnitude with four significant digits."""
    return MISSING if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return MISSING if value is None or math.isnan(value) else f"{value:.{digits}%}"


def share(value: float | None) -> str:
    """A fraction as a percentage with two decimals."""
    return percent(value, 2)


def with_interval(value: float | None, bounds: Sequence[float] | None, describe: Callable[[float | None], str]) -> str:
    """A value and its interval, if it has one: `92.10% (90.78% to 93.42%)`."""
    if value is None or bounds is None:
        return describe(value)
    return f"{describe(value)} ({describe(bounds[0])} to {describe(bounds[1])})"


def megabytes(value: float | None) -> str:
    """A size in units of 1024² bytes: `196.61 MB`, `4.91 GB`."""
    if value is None:
        return MISSING
    return f"{value:,.2f} MB" if value < 10_000 else f"{value / 1024:,.2f} GB"


def describe_metric(name: str, value: float | None) -> str:
    """The value of a metric: accuracies, including top-1, as percentages, others as numbers."""
    return share(value) if is_share(name) else number(value)


def value_at_best_epoch(run: RunHistory, metric: str) -> str:
    """The validation value of a metric at the best epoch, as text; see `describe_with_best`."""
    value = next((row["val"].get(metric) for row in run.epochs if row["epoch"] == run.best_epoch), None)
    return describe_with_best(metric, value, best_of(metric, run.epochs), partial(describe_metric, metric))
