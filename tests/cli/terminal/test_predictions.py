"""Predictions fit on narrow terminals, and nothing is cut in files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len

from dbbd_cli.cli.terminal.predictions import PredictionOutput
from dbbd_cli.core.errors import ConfigError, DataError
from dbbd_cli.core.progress import Silent
from dbbd_cli.report.prediction import Explanation, Prediction, SpanContribution

SPANS = (
    SpanContribution(0, 7, "host", "example", 1.5),
    SpanContribution(7, 10, "file ending", ".php", -3.0),
    SpanContribution(10, 310, "path", "/" + "長い" * 50, 0.0),
    SpanContribution(310, 5310, "query", "?" + "x" * 5000, -0.004),
)
URL = "".join(span.text for span in SPANS)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    result = Prediction(
        URL,
        "judged",
        probabilities={"bad": 0.25, "good": 0.75},
        positive_class="bad",
        threshold=0.5,
        explanation=Explanation("bad", 0.1, -1.4, SPANS),
    )
    output = PredictionOutput(Silent(), [], explained=True, as_json=False, csv=None, html=None)
    with monkeypatch.context() as patch, output:
        patch.setattr("sys.stdout", stream)
        output.add(result)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_an_explanation_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    _, line, _, *parts = shown(Terminal(), monkeypatch)
    assert len(parts) == len(SPANS)
    assert max(map(cell_len, parts)) <= width
    assert "example" in parts[0]
    assert parts[3].endswith("xxxx")
    assert len(line) < 500


def test_a_file_has_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(io.StringIO(), monkeypatch)[1].endswith(URL)


@pytest.mark.parametrize("given", ["urls.csv", "./url?.csv", "*"])
def test_no_input_is_overwritten(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("urls.csv").touch()
    for csv, html in ((Path("urls.csv"), None), (None, Path("urls.csv"))):
        with pytest.raises(ConfigError, match=r"urls\.csv is one of the inputs"):
            PredictionOutput(Silent(), [given], explained=False, as_json=False, csv=csv, html=html)
    with pytest.raises(ConfigError, match="--csv and --html: both are out"):
        PredictionOutput(Silent(), [given], explained=False, as_json=False, csv=Path("out"), html=Path("out"))


def test_the_reasons_of_an_error_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    output = PredictionOutput(Silent(), [], explained=False, as_json=False, csv=tmp_path / "out.csv", html=None)
    with output:
        output.add(Prediction(URL, "skipped", note="empty"))
        with pytest.raises(DataError) as raised:
            output.finish()
    assert len(raised.value.details[0]) < 500
    assert URL in (tmp_path / "out.csv").read_text(encoding="utf-8")
