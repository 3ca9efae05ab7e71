"""The report as one HTML file that needs nothing else: no scripts, no links, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.metrics import superlative
from dbbd_cli.report.check import PRETRAINING_TASK
from dbbd_cli.report.page_tables import evaluation_tables, table
from dbbd_cli.runs.reading import RunHistory, run_labels, value_at_best_epoch
from dbbd_cli.report.save import render
from dbbd_cli.report.style import GRID, INK, MUTED, PAPER, SERIES, WARNING
from dbbd_cli.report.text import in_sentence, number, percent, significant, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #59636e; --grid: #d8dee4; --paper: #ffffff; --page: #f6f8fa;
  --warning: #c24a00; --blue: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --muted: #9aa4af; --grid: #343b44; --paper: #161b22;
  --page: #0d1117; --warning: #ff9d5c; --blue: #58b4f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; overflow-wrap: anywhere; }
header p { margin: .25rem 0 0; color: var(--muted); }
.warning { color: var(--warning); font-weight: 600; }
.card { background: var(--paper); border: 1px solid var(--grid); border-radius: 8px; overflow: auto; }
.tables { display: grid; gap: 1rem; grid-template-columns: minmax(18rem, 2fr) minmax(0, 3fr); align-items: start; }
.stack { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }
.conclusion { margin: 0; }
.long { max-height: 44rem; }
@media print { .long { max-height: none; } }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .8rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: break-word; }
.measures td { white-space: normal; overflow-wrap: anywhere; }
.runs :is(th, td) { white-space: normal; }
tbody tr:last-child > * { border-bottom: 0; }
.runs :is(th, td):nth-child(-n+3) { text-align: left; }
thead th { color: var(--muted); font-weight: 500; background: var(--paper); position: sticky; top: 0; }
tbody th { font-weight: 400; }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(2, minmax(0, 1fr)); }
figure { margin: 0; padding: .5rem; }
figure.wide { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; max-height: 52rem; }
figure.narrow { display: none; }
@media (max-width: 800px) { .figures, .tables { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 640px) {
  main { padding: 1.25rem .75rem 3rem; }
  h1 { overflow-wrap: anywhere; }
  th, td { padding: .4rem .5rem; }
  /* A row of the table of runs becomes a list of its cells with their names; wide figures are moved sideways. */
  .runs :is(table, tbody, tr, th, td) { display: block; }
  .runs thead { display: none; }
  .runs tr { padding: .4rem 0; border-bottom: 1px solid var(--grid); }
  .runs tr:last-child { border-bottom: 0; }
  .runs tbody :is(th, td) { display: flex; gap: 1rem; justify-content: space-between; border: 0; white-space: normal;
    overflow-wrap: anywhere; padding-block: .15rem; text-align: right; }
  .runs tbody th { font-weight: 600; }
  .runs tbody :is(th, td)::before { content: attr(data-name); color: var(--muted); font-weight: 400; text-align: left;
    overflow-wrap: normal; }
  figure.narrow { display: block; }
  figure.narrow svg { max-height: none; }
  figure.has-narrow { display: none; }
  figure.wide:not(.narrow) svg { width: 52rem; max-width: none; max-height: none; }
}
""".strip()

# The figures' colors that follow the page's; the others serve on light and on dark.
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
    runs: Sequence[RunHistory], evaluations: Sequence[Mapping[str, Any] | None], figures: Mapping[str, Figure]
) -> str:
    """The report: a table of the runs, the figures, and a table for each evaluation.

    Args:
        runs: at least one run.
        evaluations: what was measured of each run, None where it was not evaluated.
        figures: name to figure, in the order of the page; see `NARROW`.
    """
    labels = run_labels(runs, limit=80)
    title = labels[0] if len(runs) == 1 else f"{len(runs)} runs"
    sections = [
        _section("Runs" if len(runs) > 1 else "Run", f'<div class="card runs">{_run_table(runs, labels)}</div>'),
        _section("Figures", f'<div class="figures">{"".join(_figures(figures))}</div>'),
    ]
    for label, evaluation in zip(labels, evaluations, strict=True):
        if evaluation is not None:
            heading = "Evaluation" if len(runs) == 1 else f"Evaluation of {label}"
            sections.append(_section(heading, f'<div class="tables">{"".join(evaluation_tables(evaluation))}</div>'))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Training report: {escape(title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<main>
<header><h1>Training report: {escape(title)}</h1>{_warning(runs)}</header>
{"".join(sections)}</main>
</body>
</html>
"""


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>\n"


def _warning(runs: Sequence[RunHistory]) -> str:
    made_up = sum(run.synthetic for run in runs)
    if not made_up:
        return ""
    which = "" if made_up == len(runs) else f" in {made_up} of {len(runs)} runs"
    return f'<p><span class="warning">synthetic data{which}</span>: the numbers say nothing about real data</p>'


def _run_table(runs: Sequence[RunHistory], labels: Sequence[str]) -> str:
    # What is measured beside the loss: of runs of both kinds, as for images.
    pretraining = all(run.task == PRETRAINING_TASK for run in runs)
    metric, measured = (
        ("point_top1", "Validation top-1 of the points") if pretraining else ("accuracy", "Validation accuracy")
    )
    rows = []
    for run, label in zip(runs, labels, strict=True):
        chosen = "" if run.best_epoch is None else f" ({superlative(run.metric)} {in_sentence(run.metric)})"
        rows.append(
            [
                label,
                words(run.task),
                "synthetic" if run.synthetic else "real",
                str(len(run.epochs)),
                number(run.best_epoch, 0) + chosen,
                value_at_best_epoch(run, "loss", number),
                value_at_best_epoch(run, metric, percent),
                " → ".join(significant(run.epochs[index].get("learning_rate")) for index in (0, -1)),
            ]
        )
    head = ["Run", "Task", "Data", "Epochs", "Best epoch", "Validation loss", measured, "Learning rate"]
    return table(head, rows)


def _figures(figures: Mapping[str, Figure]) -> Iterator[str]:
    for index, (name, figure) in enumerate(figures.items()):
        text = render(figure, "svg", transparent=True).decode("utf-8")
        svg = text[text.index("<svg") :]
        # Figures share one page, so each needs names of its own for what it refers to.
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{index}-", svg)
        for color, variable in _THEME.items():
            svg = svg.replace(color, variable)
        wide = " wide" if figure.get_figwidth() > _WIDE_INCHES or len(figures) == 1 else ""
        wide += " wide narrow" if name.endswith(NARROW) else " has-narrow" if name + NARROW in figures else ""
        label = words(name.removesuffix(NARROW))
        yield f'<figure class="card{wide}" role="img" aria-label="{escape(label)}">{svg}</figure>\n'
