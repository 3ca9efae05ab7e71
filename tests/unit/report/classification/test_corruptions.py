"""The table and the figure of corruptions show what was measured, for runs on codes and on images."""

from __future__ import annotations

from typing import Any

import pytest

from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation
from dbbd_cli.report.classification.figures import classification_figures
from dbbd_cli.report.classification.tables import classification_tables
from dbbd_cli.report.drawing import draw
from dbbd_cli.report.evaluation import evaluation_problem
from dbbd_cli.report.tables import Note

SHARE = {"value": 0.9, "low": 0.85, "high": 0.93}


def evaluation(*measured: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{"corruption": "none", "strength": None, "unit": ""}]
    rows += [{"corruption": name, "strength": s, "unit": "%"} for name in ("blur", "cover") for s in (0.5, 10.0)]
    rows = [{**row, **dict.fromkeys(measured, SHARE)} for row in rows]
    return {"format": 1, "split": "test", "corruptions": {"num_samples": 200, "seconds": 3.5, "rows": rows}}


@pytest.mark.parametrize(
    ("measured", "columns"),
    [
        (
            ("read", "read_right", "accuracy", "verdict"),
            ("Corruption", "Code read", "Read right", "Class right", "Verdict right"),
        ),
        (("accuracy",), ("Corruption", "Class right")),
    ],
)
def test_table_and_figure(measured: tuple[str, ...], columns: tuple[str, ...]) -> None:
    content = evaluation(*measured)
    assert evaluation_problem(content, ClassificationEvaluation) == ""
    table = next(part for part in classification_tables(content, "images") if "Corruptions" in part.title)
    assert table.title == "Corruptions, 200 pictures each, with 95% intervals"
    assert table.columns == columns
    assert [row[0] for row in table.rows] == ["none", "blur 0.5%", "blur 10%", "cover 0.5%", "cover 10%"]
    assert table.rows[1][-1] == "90.0% (85.0% to 93.0%)"
    assert table.short_title == "Corruptions, 200 pictures each; evaluation.json has the intervals"
    assert table.short_rows[1] == ("blur 0.5%", *["90.0%"] * len(measured))
    figure = draw(classification_figures(content))["corruptions"]
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["Blur", "Cover"]
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["none", "0.5%", "10%"]
    assert all(len(axes.lines) == len(measured) + 1 for axes in panels)


def test_a_note_says_which_threshold_the_verdict_has() -> None:
    content = {**evaluation("accuracy", "verdict"), "calibration": {"temperature": 1.0, "threshold": 0.8125}}
    notes = [part.text for part in classification_tables(content, "images") if isinstance(part, Note)]
    assert any("at the threshold 0.8125" in text for text in notes)


def test_a_damaged_part_is_reported() -> None:
    content = evaluation("accuracy")
    content["corruptions"]["rows"][2]["accuracy"] = {"value": 7.0, "low": 0.0, "high": 1.0}
    assert evaluation_problem(content, ClassificationEvaluation).startswith("corruptions.rows.2.accuracy.value")
