"""The results of `predict`, written as they come: lines on standard output, rows of a CSV file and of a page."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import typer
from rich.cells import cell_len

from dbbd_cli.cli.terminal.console import plain
from dbbd_cli.cli.terminal.streams import colored, columns, write_result
from dbbd_cli.cli.terminal.text import clean_line, per_second
from dbbd_cli.core.errors import ConfigError, DataError, DiskError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted, printable
from dbbd_cli.data.inputs import matches
from dbbd_cli.report.prediction import CSV_COLUMNS, Explanation, FilePrediction, Prediction, Result
from dbbd_cli.report.prediction_page import PredictionPage
from dbbd_cli.report.save import disk_error
from dbbd_cli.report.text import visible

_CLASS_COLUMNS, _PROBABILITY_COLUMNS = 12, 12
_BAR, _LONGEST_SPAN, _SPAN_INDENT = 20, 48, 28
_LONGEST_ON_TERMINAL = 400
_MAX_REASONS = 10


class PredictionOutput:
    """Where results go. The context opens and closes the files.

    Args:
        progress: receives the summary.
        inputs: the inputs as given, which no file may replace.
        explained: whether the results have explanations.
        as_json: whether to print JSON lines instead of a table.
        csv: the CSV file, if any.
        html: the page, if any.

    Raises:
        ConfigError: a file is one of the inputs, or both files are the same.
        DiskError: a file cannot be written.
    """

    def __init__(
        self,
        progress: Progress,
        inputs: Sequence[str],
        *,
        explained: bool,
        as_json: bool,
        csv: Path | None,
        html: Path | None,
    ) -> None:
        self.wanted = True
        self._progress = progress
        self._explained = explained
        self._as_json = as_json
        self._paths = {"--csv": csv, "--html": html}
        named = [name for text in inputs for name in (text, *matches(text))]
        for option, path in self._paths.items():
            if path is not None and any(_is_same(name, path) for name in named):
                raise ConfigError(f"{option}: {path} is one of the inputs", hint="choose another file")
        if csv is not None and html is not None and csv.absolute() == html.absolute():
            raise ConfigError(f"--csv and --html: both are {csv}", hint="choose two files")
        self._counts: Counter[str] = Counter()
        self._total = self._skipped = 0
        self._rule = ""
        self._reasons: list[str] = []
        self._has_header = self._csv_begun = False
        self._files = ExitStack()
        self._csv: TextIO | None = None
        self._html: TextIO | None = None
        self._start = time.monotonic()

    def __enter__(self) -> PredictionOutput:
        self._csv, self._html = (None if path is None else self._open(path) for path in self._paths.values())
        if self._html is not None:
            self._page = PredictionPage()
            self._write("--html", self._html, self._page.head(Path(self._html.name).stem, explained=self._explained))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._begin_csv(CSV_COLUMNS)
            if self._html is not None:
                is_complete = kind is None or isinstance(error, DataError)
                end = f"{self._summary()} {self._rule}".rstrip() if is_complete else "Interrupted."
                self._write("--html", self._html, self._page.tail(end))
        finally:
            # After a failed write, closing tries it again, and must not hide the error that says which file it was.
            with suppress(*([OSError] if isinstance(error, DiskError) else [])):
                self._files.close()

    def add(self, result: Result) -> None:
        """Write a result."""
        judged = None if isinstance(result, FilePrediction) else result.verdict
        self._counts[result.status if judged is None else judged] += 1
        self._total += 1
        if isinstance(result, Prediction) and result.threshold is not None and result.positive_class:
            positive = clean_line(result.positive_class)
            self._rule = f"The verdict is {positive} if p({positive}) is at least {result.threshold:.2%}."
        if result.status == "skipped":
            self._skipped += 1
            if len(self._reasons) < _MAX_REASONS:
                self._reasons.append(f"{visible(result.input, _LONGEST_ON_TERMINAL)}: {result.note}")
        if self._csv is not None:
            self._begin_csv(result.csv_columns)
            self._write("--csv", self._csv, _csv_line(result.to_row()))
        if self._html is not None:
            self._write("--html", self._html, self._page.row(result))
        text = json.dumps(plain(result.to_plain()), allow_nan=False) if self._as_json else self._described(result)
        is_read = write_result(text)
        self.wanted = self.wanted and (is_read or self._csv is not None or self._html is not None)

    def finish(self) -> None:
        """Show the summary.

        Raises:
            DataError: inputs were skipped.
        """
        seconds = max(time.monotonic() - self._start, 1e-9)
        self._progress.line(f"{self._summary()} {per_second(self._total / seconds)} per second.")
        if self._rule:
            self._progress.line(self._rule)
        if number := self._skipped:
            more = number - len(self._reasons)
            are = "was" if number == 1 else "were"
            raise DataError(
                f"{number:,} of {counted(self._total, 'result')} {are} skipped: unreadable inputs",
                details=[*self._reasons, *([f"and {more:,} more"] if more else [])],
                hint="all other results are complete; fix or leave out these inputs",
            )

    def _summary(self) -> str:
        parts = [f"{number:,} {clean_line(name.replace('_', ' '))}" for name, number in sorted(self._counts.items())]
        return f"{counted(self._total, 'result')}: {', '.join(parts)}." if parts else "No results."

    def _begin_csv(self, columns: Sequence[str]) -> None:
        """Write the names of the columns, unless they are there already."""
        if self._csv is not None and not self._csv_begun:
            self._csv_begun = True
            self._write("--csv", self._csv, _csv_line(columns))

    def _open(self, path: Path) -> TextIO:
        try:
            file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="", buffering=1)
        except OSError as error:
            raise disk_error(path, error) from error
        return self._files.enter_context(file)

    def _write(self, option: str, file: TextIO, text: str) -> None:
        try:
            file.write(text)
        except OSError as error:
            raise disk_error(self._paths[option] or Path(), error) from error

    def _described(self, result: Result) -> str:
        """The result as a line, preceded by the names of the columns, followed by the explanation."""
        color = colored(sys.stdout)
        if isinstance(result, FilePrediction):
            return self._described_files(result, color)
        lines = []
        verdict = clean_line(result.verdict or "")
        name = clean_line(result.predicted or result.status.replace("_", " "))
        probability = "" if result.probability is None else f"{result.probability:.2%}"
        width = columns(sys.stdout)
        limit = None if width is None else _LONGEST_ON_TERMINAL
        what = visible(result.input, limit)
        if result.text:
            what += f" -> {visible(result.text, limit)}"
        if result.note:
            what += f": {clean_line(result.note)}" if result.verdict is None else f" ({clean_line(result.note)})"
        if result.verdict is not None and not self._has_header:
            self._has_header = True
            title = f"p({clean_line(result.positive_class)})" if result.positive_class else "Probability"
            lines.append(_style(_columns("Class", title, "Verdict", "Input"), color, bold=True))
        line = _columns(name, probability, verdict, what)
        if result.verdict is None:
            line = _style(line, color, dim=True)
        elif result.verdict == result.positive_class:
            line = _style(line, color, fg="yellow")
        lines.append(line)
        if result.explanation is not None:
            lines += _explained(result.explanation, width, color)
        return "\n".join(lines)

    def _described_files(self, result: FilePrediction, color: bool) -> str:
        lines = []
        limit = None if columns(sys.stdout) is None else _LONGEST_ON_TERMINAL
        what = visible(result.input, limit)
        if result.status == "skipped":
            return _style(_columns("skipped", "", "", f"{what}: {clean_line(result.note)}"), color, dim=True)
        if not self._has_header:
            self._has_header = True
            lines.append(_style(_columns("Status", "Points", "Seconds", "Input -> files"), color, bold=True))
        files = ", ".join(visible(file, limit) for file in result.files)
        note = f" ({clean_line(result.note)})" if result.note else ""
        lines.append(_columns("written", f"{result.num_points:,}", f"{result.seconds:.1f}", f"{what} -> {files}{note}"))
        return "\n".join(lines)


def _columns(name: str, probability: str, verdict: str, what: str) -> str:
    width = _CLASS_COLUMNS
    return f"{name:<{width}}  {probability:>{_PROBABILITY_COLUMNS}}  {verdict:<{width}}  {what}"


def _explained(explanation: Explanation, width: int | None, color: bool) -> list[str]:
    """A line for each part: its contribution as a number and as a bar of signs, and its text."""
    largest = max((abs(span.contribution) for span in explanation.spans), default=0.0) or 1.0
    bar_width = _BAR if width is None else min(_BAR, width // 5)
    room = _LONGEST_SPAN if width is None else max(12, width - bar_width - _SPAN_INDENT)
    lines = [
        f"    log-odds of {clean_line(explanation.target)}: {explanation.empty:+.2f} for an empty text, "
        f"{explanation.total:+.2f} for this one"
    ]
    for span in explanation.spans:
        sign, shade = ("+", "yellow") if span.contribution > 0 else ("-", "cyan")
        bar = sign * round(abs(span.contribution) / largest * bar_width)
        styled = _style(f"{bar:<{bar_width}}", color, fg=shade)
        text = printable(span.text)
        text = visible(text, room * len(text) // max(cell_len(text), 1))  # Chinese characters take two columns each
        lines.append(f"    {span.contribution:+7.2f}  {styled}  {span.part:<11}  {text}")
    return lines


def _style(text: str, color: bool, **style: Any) -> str:
    return typer.style(text, **style) if color else text


def _csv_line(row: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(row)
    return line.getvalue()


def _is_same(text: str, path: Path) -> bool:
    try:
        return os.path.samefile(text, path)  # noqa: PTH121 - a Path raises for a NUL
    except (OSError, ValueError):
        return False
