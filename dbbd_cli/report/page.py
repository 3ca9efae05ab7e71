"""The report as one self-contained HTML file, light and dark: no links, and no script but the one for scenes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dbbd_cli.core.metrics import metric_words, superlative
from dbbd_cli.report.history import synthetic_warning
from dbbd_cli.report.save import render
from dbbd_cli.report.scenes.viewer import PointCloud, viewer_data, viewer_script
from dbbd_cli.report.style import GRID, INK, MUTED, PAPER, SERIES, WARNING
from dbbd_cli.report.tables import Note, Section, Values
from dbbd_cli.report.templates import templates
from dbbd_cli.report.text import (
    count,
    run_labels,
    significant,
    task_title,
    value_at_best_epoch,
    visible,
    words,
)
from dbbd_cli.runs.reading import RunHistory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colors of figures that follow the page's; the others suit light and dark pages.
_THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    WARNING: "var(--warning)",
    SERIES[0]: "var(--blue)",
}
_WIDE_INCHES = 10
NARROW = "-narrow"
"""Suffix of the name of a figure that replaces the one without the suffix on a narrow page."""


def html_page(
    runs: Sequence[RunHistory],
    metrics: Sequence[str],
    evaluations: Sequence[Sequence[Section]],
    figures: Mapping[str, Figure],
    clouds: Mapping[str, PointCloud] | None = None,
) -> str:
    """Render the report: a table of the runs, the figures, and the tables of each evaluation.

    Args:
        runs: at least one run.
        metrics: the metrics of the table of runs.
        evaluations: the tables of each run's evaluation; empty if it was not evaluated.
        figures: name to figure, in the order of the page; see `NARROW`.
        clouds: name of a figure to the points that replace it where the browser can draw them.
    """
    labels = run_labels(runs, limit=80)
    script, script_source = viewer_script() if clouds else ("", "")
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            script=Markup(script),  # noqa: S704 - ours
            script_source=script_source,
            title=labels[0] if len(runs) == 1 else f"{len(runs)} runs",
            warning=synthetic_warning(runs),
            run_columns=_run_columns(metrics),
            run_rows=[_run_row(run, label, metrics) for run, label in zip(runs, labels, strict=True)],
            figures=list(_figures(figures, clouds or {})),
            evaluations=[
                _evaluation("Evaluation" if len(runs) == 1 else f"Evaluation of {label}", sections)
                for label, sections in zip(labels, evaluations, strict=True)
                if sections
            ],
        )
    )


def _run_columns(metrics: Sequence[str]) -> list[str]:
    named = [f"Validation {metric_words(metric)}" for metric in metrics]
    return ["Run", "Task", "Data", "Epochs", "Best epoch", *named, "Learning rate"]


def _run_row(run: RunHistory, label: str, metrics: Sequence[str]) -> list[str]:
    reason = "" if run.best_epoch is None else f" ({superlative(run.metric)} {metric_words(run.metric)})"
    return [
        label,
        task_title(run.task),
        "synthetic" if run.synthetic else "real",
        count(len(run.epochs)),
        count(run.best_epoch) + reason,
        *(value_at_best_epoch(run, metric) for metric in metrics),
        " → ".join(significant(run.epochs[index].get("learning_rate")) for index in (0, -1)),
    ]


def _evaluation(title: str, sections: Sequence[Section]) -> dict[str, Any]:
    visible_sections = [_visible(section) for section in sections]
    return {
        "title": title,
        "measures": [section for section in visible_sections if isinstance(section, Values)],
        "tables": [section for section in visible_sections if not isinstance(section, Values)],
    }


def _visible(section: Section) -> Section:
    """The section with misleading characters of names from data escaped, and very long names shortened."""
    if isinstance(section, Note):
        return replace(section, text=visible(section.text, 1000))
    if isinstance(section, Values):
        return replace(section, rows=tuple((name, visible(value, 200)) for name, value in section.rows))
    return replace(
        section,
        columns=tuple(visible(name, 40) for name in section.columns),
        rows=tuple(tuple(visible(cell, 80) for cell in row) for row in section.rows),
    )


def _figures(figures: Mapping[str, Figure], clouds: Mapping[str, PointCloud]) -> Iterator[dict[str, Any]]:
    for index, (name, figure) in enumerate(figures.items()):
        text = render(figure, "svg", transparent=True).decode("utf-8")
        svg = text[text.index("<svg") :]
        # All figures share one page, so their ids must differ.
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{index}-", svg)
        for color, variable in _THEME.items():
            svg = svg.replace(color, variable)
        classes = " wide" if figure.get_figwidth() > _WIDE_INCHES or len(figures) == 1 else ""
        classes += " wide narrow" if name.endswith(NARROW) else " has-narrow" if name + NARROW in figures else ""
        cloud = clouds.get(name)
        yield {
            "label": words(name.removesuffix(NARROW)),
            "classes": f"{classes} wide points" if cloud else classes,
            "svg": Markup(svg),  # noqa: S704
            "cloud": None if cloud is None else Markup(viewer_data(cloud)),  # noqa: S704 - has no markup
        }
