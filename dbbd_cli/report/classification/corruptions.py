"""What corrupted pictures do to a classifier, as a table and a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.text import counted
from dbbd_cli.report.style import GRID, SERIES, add_legend, drawable, headed_figure
from dbbd_cli.report.tables import Note, Table
from dbbd_cli.report.text import MISSING, number, percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEASURED = {
    "read": "Code read",
    "read_right": "Read right",
    "accuracy": "Class right",
    "verdict": "Verdict right",
}
_SHORT = {"read": "Read", "read_right": "Right", "accuracy": "Class", "verdict": "Verdict"}
_COLUMNS = 4


def corruption_tables(evaluation: Mapping[str, Any]) -> Iterator[Table | Note]:
    """One row for each corruption and strength, if they were measured."""
    found = evaluation.get("corruptions")
    if not found:
        return
    measured = _measured(found["rows"])
    title = f"Corruptions, {counted(found['num_samples'], 'picture')} each"
    yield Table(
        f"{title}, with 95% intervals",
        ("Corruption", *(_MEASURED[key] for key in measured)),
        tuple((_name(row), *(_share(row.get(key)) for key in measured)) for row in found["rows"]),
        short_columns=("Corruption", *(_SHORT[key] for key in measured)),
        short_title=f"{title}; evaluation.json has the intervals",
        short_rows=tuple(
            (_name(row), *(percent((row.get(key) or {}).get("value")) for key in measured)) for row in found["rows"]
        ),
    )
    threshold = (evaluation.get("calibration") or {}).get("threshold")
    if threshold is not None and "verdict" in measured:
        yield Note(
            "Class right: the most probable class is the true one. Verdict right: so is the verdict of predict, "
            f"at the threshold {number(threshold)}."
        )


def _measured(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The shares that were measured."""
    return [key for key in _MEASURED if any(row.get(key) for row in rows)]


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['corruption']} {_strength(row)}".strip()


def _strength(row: Mapping[str, Any]) -> str:
    return "" if row.get("strength") is None else f"{row['strength']:g}{row.get('unit') or ''}"


def _share(share: Mapping[str, float] | None) -> str:
    if not share:
        return MISSING
    return f"{percent(share['value'])} ({percent(share['low'])} to {percent(share['high'])})"


def corruption_figure(evaluation: Mapping[str, Any], warning: str) -> Figure:
    """Draw the shares of codes read and of right verdicts, one panel for each corruption, by strength."""
    from matplotlib.ticker import PercentFormatter

    found = evaluation["corruptions"]
    rows = found["rows"]
    names = list(dict.fromkeys(row["corruption"] for row in rows if row.get("strength") is not None))
    measured = _measured(rows)
    num_rows = -(-(len(names) + 1) // _COLUMNS)
    about = [f"{drawable(evaluation['split'], 20)} split"] if evaluation.get("split") else []
    about.append(f"{counted(found['num_samples'], 'picture')} each")
    figure = headed_figure(
        (12.0, 0.8 + 2.9 * num_rows), "Corrupted pictures", [*about, "95% intervals"], warning=warning
    )
    panels = figure.subplots(num_rows, _COLUMNS, squeeze=False).flatten()
    entries: list[tuple[str, Artist]] = []
    for axes, name in zip(panels, names, strict=False):
        shown = [row for row in rows if row["corruption"] in ("none", name)]
        entries = _panel(axes, drawable(name[:1].upper() + name[1:], 30), shown, measured)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    if len(names) < len(panels):
        add_legend(panels[len(names)], entries, loc="center left")
    return figure


def _panel(
    axes: Axes, title: str, rows: Sequence[Mapping[str, Any]], measured: Sequence[str]
) -> list[tuple[str, Artist]]:
    entries: list[tuple[str, Artist]] = []
    for place, key in enumerate(measured):
        points = [(x, row[key]) for x, row in enumerate(rows) if row.get(key)]
        # Side by side, so that intervals do not hide each other.
        across = [x + 0.12 * (place - (len(measured) - 1) / 2) for x, _ in points]
        values = [share["value"] for _, share in points]
        color = SERIES[place]
        axes.vlines(
            across,
            [share["low"] for _, share in points],
            [share["high"] for _, share in points],
            color=color,
            alpha=0.5,
        )
        (line,) = axes.plot(across, values, "o-", color=color, markersize=4, linewidth=1.4)
        entries.append((_MEASURED[key], line))
    axes.set_title(title)
    axes.set_xticks(range(len(rows)), [_strength(row) or "none" for row in rows])
    axes.set(ylim=(-0.03, 1.03), xlim=(-0.4, len(rows) - 0.6))
    axes.axhline(0, color=GRID, linewidth=0.7)
    return entries
