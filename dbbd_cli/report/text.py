"""Names that come from data, made safe and short enough to show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dbbd_cli.core.text import counted, printable

_ABBREVIATIONS = {"auc": "AUC", "dbbd": "DBBD", "f1": "F1", "mb": "MB", "miou": "mIoU", "ms": "ms", "roc": "ROC"}

MISSING = "–"
"""What a table shows for a value that is not there."""


def visible(text: str, limit: int | None = None) -> str:
    """The text with what could mislead a reader as escapes, cut in the middle to `limit` characters."""
    shown = printable(text)
    if limit is None or len(shown) <= limit:
        return shown
    # Names of one family tend to differ at the end as much as at the start: keep both.
    head = limit // 2
    return f"{shown[:head]}…{shown[len(shown) - (limit - head - 1) :]}"


def distinct(labels: list[str]) -> list[str]:
    """The labels, with a number behind those that occur before."""
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


def words(name: str) -> str:
    """A metric or task name as words: `region_loss` is `Region loss`, `roc_auc` is `ROC AUC`."""
    first, *others = ["top-1" if part == "top1" else part for part in visible(name, 60).split("_")]
    return " ".join(
        [_ABBREVIATIONS.get(first, first[:1].upper() + first[1:]), *(_ABBREVIATIONS.get(o, o) for o in others)]
    )


def ignored_labels(rows: Iterable[Mapping[str, Any]]) -> str:
    """The labels that do not count as classes, from `ignored_labels` of an evaluation: `255 (1,204 points)`."""
    return ", ".join(
        f"{'negative or NaN' if row.get('label') is None else row['label']} ({counted(row['points'], 'point')})"
        for row in rows
    )


def in_sentence(name: str) -> str:
    """A metric name as words within a sentence: `region_loss` is `region loss`, `f1` is `F1`."""
    text = words(name)
    return text if name.partition("_")[0] in _ABBREVIATIONS else text[:1].lower() + text[1:]


def number(value: Any, digits: int = 4) -> str:
    """A number with a fixed count of decimals, or a dash where there is none."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def significant(value: Any) -> str:
    """A number of any magnitude in four digits that matter, or a dash where there is none."""
    return MISSING if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(value: Any, digits: int = 1) -> str:
    """A share of 1 as a percentage, or a dash where there is none."""
    return MISSING if value is None else f"{100 * value:.{digits}f}%"
