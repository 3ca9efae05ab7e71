"""The tables of an evaluation fit the terminal: short headers, few rows, and no matrix that is too wide."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dbbd_cli.cli.terminal.evaluation_table import evaluate
from dbbd_cli.report.tables import Note, Section, Table, Values, ranked
from dbbd_cli.services.results import EvaluateResult

CLASSES = Table(
    "Classes",
    ("Class", "Precision", "Recall", "Support"),
    tuple((f"c{index:02}", "50.00%", "50.00%", "1,000") for index in range(30)),
    short_columns=("Class", "Prec.", "Recall", "Count"),
    footer=(("mean", "50.00%", "50.00%", ""),),
    lowest="F1",
    ranking=ranked([30.0 - index for index in range(30)]),
)
MATRIX = Table(
    "Matrix",
    ("", "a long name", "another long name"),
    (("a long name", "1", "2"), ("another long name", "3", "4")),
    short_columns=("", "1", "2"),
    short_names=("1 a long name", "2 another long name"),
    must_fit=True,
)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Renders sections as those of an evaluation, on a terminal of some width."""

    def rendered(sections: list[Section], width: int | None = None, *, color: bool = False) -> str:
        class Task:
            def tables(self, evaluation: Any) -> list[Section]:
                return sections

        monkeypatch.setattr("dbbd_cli.cli.terminal.evaluation_table.get_task", lambda name: Task())
        report: dict[str, object] = {"task": "any", "split": "val", "epoch": 3, "synthetic": True}
        stream = io.StringIO()
        console = Console(
            file=stream, force_terminal=color, width=width or 200, color_system="standard" if color else None
        )
        for part in evaluate(EvaluateResult(Path("run"), Path("run/ckpt.pth"), report, [Path("run/a.json")]), width):
            console.print(part)
        return stream.getvalue()

    return rendered


def test_the_header_names_run_split_and_synthetic_data(show: Any) -> None:
    shown = show([Values("Metrics", (("Loss", "0.5"),))])
    assert "Evaluation on the val split" in shown
    assert "SYNTHETIC" in shown
    assert "Loss  0.5" in shown
    assert "run/a.json" in shown


def test_a_long_table_shows_the_lowest_rows_and_the_footer(show: Any) -> None:
    shown = show([CLASSES])
    assert "Classes: the 20 of 30 with the lowest F1 (evaluation.json has all)" in shown
    names = [line.split()[0] for line in shown.splitlines() if "50.00%" in line]
    assert names == [*(f"c{index:02}" for index in range(29, 9, -1)), "mean"]


@pytest.mark.parametrize(("width", "header"), [(80, "Precision"), (40, "Prec.")])
def test_a_narrow_terminal_gets_short_headers(show: Any, width: int, header: str) -> None:
    shown = show([CLASSES], width)
    assert header in shown
    assert max(map(len, shown.splitlines())) <= width


def test_a_narrow_terminal_gets_no_intervals(show: Any) -> None:
    rows = (("a long name of a rule", "50.0% (40.0% to 60.0%)", "60.0% (50.0% to 70.0%)"),)
    short = (("a long name of a rule", "50.0%", "60.0%"),)
    table = Table(
        "T", ("", "First column", "Second"), rows, short_columns=("", "First", "Second"), short_rows=short,
        short_title="T without intervals",
    )  # fmt: skip
    assert "T without intervals" not in show([table], 70)
    narrow = show([table], 60)
    assert "T without intervals" in narrow
    assert "a long name of a rule  50.0%   60.0%" in narrow


def test_a_matrix_has_names_numbers_or_is_omitted(show: Any) -> None:
    assert "a long name  another long name" in " ".join(show([MATRIX], 80).split("\n"))
    assert "2 another long name" in show([MATRIX], 40)
    narrow = " ".join(show([MATRIX], 25).split())
    assert "too wide for this terminal" in narrow
    assert "another long name" not in narrow


def test_a_warning_is_yellow(show: Any) -> None:
    assert "\x1b[33m  It did not work." in show([Note("It did not work.", warning=True)], color=True)
    assert "\x1b[33m  It worked." not in show([Note("It worked.")], color=True)
    assert "Probe" in show([Note("not measured", title="Probe")])


def test_control_characters_are_escaped(show: Any) -> None:
    sections = [
        Values("V", (("name", "a\x1b[2J"),)),
        Table("T", ("", "b\x1b"), (("c\x1b", "1"),)),
        Note("d\x1b", title="e\x1b"),
    ]
    assert "\x1b" not in show(sections)
