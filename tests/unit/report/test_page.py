"""The HTML report shows all values, needs nothing but itself, and keeps hostile names as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.report.classification.figures import classification_figures
from dbbd_cli.report.classification.tables import classification_tables
from dbbd_cli.report.drawing import draw
from dbbd_cli.report.history import training_history
from dbbd_cli.report.page import NARROW, html_page
from dbbd_cli.report.tables import Note, Table, Values
from dbbd_cli.runs.reading import RunHistory

Make = Callable[..., Any]
METRICS = ("loss", "accuracy")


class Page(HTMLParser):
    """Collects what a browser would see: tags, attributes, ids and table rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def run_of(name: str, folder: str = "folder", synthetic: bool = True, loss: float | None = 0.6) -> RunHistory:
    val = {"loss": loss} if loss is None else {"loss": loss, "accuracy": 0.625}
    rate = None if loss is None else 0.001
    row = {"kind": "epoch", "epoch": 1, "step": 10, "learning_rate": rate, "train": dict(val), "val": val}
    best = None if loss is None else 1
    return RunHistory(Path(folder), name, "image_classification", synthetic, [row], [], best)


@pytest.fixture(scope="module")
def text(evaluation_of: Make) -> str:
    """The page of one evaluated run; drawn once, because that is slow."""
    run, evaluation = run_of("qr"), evaluation_of()
    figures = {"training_history": training_history([run]), **draw(classification_figures(evaluation))}
    return html_page([run], METRICS, [classification_tables(evaluation, "images")], figures)


def test_the_tables_show_the_values(text: str) -> None:
    rows = Page(text).rows
    assert [
        "qr",
        "Image classification",
        "synthetic",
        "1",
        "1 (lowest loss)",
        "0.6000",
        "62.50%",
        "0.001 → 0.001",
    ] in rows
    assert ["benign", "75.00%", "75.00%", "75.00%", "4"] in rows
    assert ["macro mean", "75.00%", "75.00%", "75.00%", ""] in rows
    for name, value in [
        ("Accuracy", "75.00%"),
        ("ROC AUC", "0.8700"),
        ("Recall at 0.1% FPR", "10.00%"),
        ("Images", "8"),
        ("Parameters", "51,539,906"),
        ("Size", "196.61 MB"),
        ("Time per batch", "6.5 ms"),
        ("Device", "cpu"),
    ]:
        assert [name, value] in rows


def test_a_narrow_page_has_names_in_the_cells_and_a_figure_of_its_own() -> None:
    run = run_of("qr")
    wide, narrow = training_history([run]), training_history([run], narrow=True)
    assert narrow.get_figwidth() < 6 < wide.get_figwidth()
    tops = [axes.get_position().y1 for axes in narrow.axes]
    assert tops == sorted(tops, reverse=True), "the panels stand one below the other"
    text = html_page([run], METRICS, [[]], {"training_history": wide, f"training_history{NARROW}": narrow})
    page = Page(text)
    assert ("data-name", "Validation loss") in page.attributes
    kinds = [value for name, value in page.attributes if name == "class" and value.startswith("card wide")]
    assert kinds == ["card wide has-narrow", "card wide narrow"]
    assert [value for name, value in page.attributes if name == "aria-label"] == ["Training history"] * 2


def test_the_page_needs_nothing_else(text: str) -> None:
    page = Page(text)
    assert page.tags.count("svg") == 5
    assert not {"script", "link", "iframe", "object", "a"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href", "action"):
            assert value.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


def test_each_figure_refers_to_its_own_parts(text: str) -> None:
    page = Page(text)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = {value[1:] for name, value in page.attributes if name == "xlink:href" and value.startswith("#")}
    assert references
    assert references <= set(ids)


def test_neutral_colors_follow_the_page(text: str) -> None:
    svg = text.split("<svg", 1)[1]
    assert "#1f2328" not in svg
    assert "var(--ink)" in svg


def test_hostile_names_stay_text(evaluation_of: Make) -> None:
    hostile = ['<script>alert("1")</script>', "--><img src=x onerror=alert(1)>", "a\x1b[31m\n\u202eb", "\ud800 &amp;"]
    evaluation = {**evaluation_of(hostile), "split": "<b>test</b>", "curves": None}
    evaluation["efficiency"] = {"device": '"><script>'}
    run = run_of("<script>name</script>")
    figures = {"training_history": training_history([run]), **draw(classification_figures(evaluation))}
    text = html_page([run], METRICS, [[*classification_tables(evaluation, "images"), Note("<i>note\x1b")]], figures)
    page = Page(text)
    assert not {"script", "img", "b", "i"} & set(page.tags)
    shown = {row[0] for row in page.rows}
    assert {"<script>name</script>", hostile[0], hostile[1], "a\\x1b[31m\\n\\u202eb", "\\ud800 &amp;"} <= shown
    assert ["Device", '"><script>'] in page.rows
    assert "\x1b" not in text
    text.encode("utf-8")


def test_several_runs_have_a_row_each(evaluation_of: Make) -> None:
    runs = [run_of("qr", "a"), run_of("qr", "b", synthetic=False)]
    text = html_page(runs, METRICS, [[], classification_tables(evaluation_of(), "images")], {})
    rows = Page(text).rows
    assert [row[0] for row in rows[:3]] == ["Run", "a", "b"]
    assert [row[2] for row in rows[1:3]] == ["synthetic", "real"]
    assert "Evaluation of b" in text
    assert "Evaluation of a" not in text
    assert "synthetic data in 1 of 2 runs" in text


def test_a_run_without_accuracy_or_best_epoch_has_dashes() -> None:
    rows = Page(html_page([run_of("qr", loss=None)], METRICS, [[]], {})).rows
    assert rows[1][4:] == ["-", "-", "-", "- → -"]


def test_sections_of_every_kind_are_shown() -> None:
    sections = [
        Values("Numbers", (("Loss", "0.5"),)),
        Table("By class", ("Class", "F1"), (("a", "1"),), footer=(("mean", "2"),), lowest="F1", ranking=(0,)),
        Note("It did not work.", title="Probe", warning=True),
    ]
    text = html_page([run_of("qr")], METRICS, [sections], {})
    assert Page(text).rows[2:] == [["Loss", "0.5"], ["Class", "F1"], ["a", "1"], ["mean", "2"]]
    for title in ("Numbers", "By class", "Probe"):
        assert f"<h3>{title}</h3>" in text
    assert '<p class="note warning">It did not work.</p>' in text
