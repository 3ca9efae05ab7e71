"""The results of `predict` as a page that is written row by row, so that it may have any number of them."""

from __future__ import annotations

from typing import Any

from dbbd_cli.core.text import counted
from dbbd_cli.report.prediction import FilePrediction, Result
from dbbd_cli.report.templates import templates
from dbbd_cli.report.text import MISSING, visible

_LONGEST, _LONGEST_SPAN = 500, 120


class PredictionPage:
    """Makes the parts of a page: its head, a row for each result, and its tail; all text is escaped."""

    def __init__(self) -> None:
        self._parts: Any = templates().get_template("predictions.html.j2").module

    def head(self, title: str, *, explained: bool) -> str:
        """The beginning of the page; it tells how to read explanations if there will be any."""
        return str(self._parts.head(visible(title, 80), explained)).lstrip()

    def row(self, result: Result) -> str:
        """A row, and below the text its explanation, or below the input its files."""
        if isinstance(result, FilePrediction):
            return self._row_of_files(result)
        explained = result.explanation
        return str(
            self._parts.row(
                {
                    "input": visible(result.input, _LONGEST),
                    "text": visible(result.text or "", _LONGEST),
                    "note": visible(result.note, _LONGEST),
                    "predicted": visible(result.predicted or result.status.replace("_", " "), 80),
                    "probability": MISSING if result.probability is None else f"{result.probability:.2%}",
                    "of": "" if result.probability is None else visible(result.positive_class or "", 80),
                    "verdict": visible(result.verdict or MISSING, 80),
                    "is_positive": result.verdict is not None and result.verdict == result.positive_class,
                    "target": visible(explained.target, 80) if explained else "",
                    "empty": f"{explained.empty:+.2f}" if explained else "",
                    "total": f"{explained.total:+.2f}" if explained else "",
                    "spans": [
                        {
                            "start": span.start,
                            "end": span.end,
                            "part": span.part,
                            "text": visible(span.text, _LONGEST_SPAN),
                            "contribution": f"{span.contribution:+.2f}",
                            "direction": "for" if span.contribution > 0 else "against",
                        }
                        for span in (explained.spans if explained else ())
                    ],
                }
            )
        )

    def _row_of_files(self, result: FilePrediction) -> str:
        facts = "" if result.num_points is None else f"{counted(result.num_points, 'point')}, {result.seconds:.1f} s"
        return str(
            self._parts.row(
                {
                    "input": visible(result.input, _LONGEST),
                    "text": visible(", ".join(result.files), _LONGEST),
                    "note": visible(result.note or facts, _LONGEST),
                    "predicted": result.status,
                    "probability": MISSING,
                    "of": "",
                    "verdict": MISSING,
                    "is_positive": False,
                    "spans": [],
                }
            )
        )

    def tail(self, note: str) -> str:
        """The end of the page, with a last line."""
        return str(self._parts.tail(visible(note, _LONGEST)))
