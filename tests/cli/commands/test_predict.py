"""`dbbd predict` writes results as they come, as a table, JSON lines, CSV and a page, and ends with the right code."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dbbd_cli.cli.app import app
from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.report.prediction import Explanation, FilePrediction, Prediction, SpanContribution

Run = Callable[..., Any]
SPANS = (SpanContribution(0, 6, "host", "login.", 2.0), SpanContribution(6, 15, "host", "a.example", -1.0))


class FakePredictor:
    """Judges an input as malicious if it contains "login", and skips it if it contains "bad"."""

    def predict(self, inputs: Iterable[Any]) -> Iterator[Prediction]:
        for one in inputs:
            if one.problem or "bad" in one.name:
                yield Prediction(one.name, "skipped", note=one.problem or "unreadable")
                continue
            share = 0.9 if "login" in one.name else 0.2
            yield Prediction(
                one.name,
                "judged",
                probabilities={"benign": 1 - share, "malicious": share},
                positive_class="malicious",
                threshold=0.5,
                calibrated=True,
                explanation=Explanation("malicious", -0.5, 0.5, SPANS) if share > 0.5 else None,
            )


@pytest.fixture
def predict(fake_service: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ckpt.pth").touch()
    monkeypatch.chdir(tmp_path)
    calls = fake_service("predict", open_predictor=FakePredictor())

    def invoke(*arguments: str, stdin: bytes = b"") -> Result:
        return CliRunner().invoke(app, ["predict", "run", *arguments], input=stdin)

    invoke.calls = calls  # type: ignore[attr-defined]
    return invoke


def test_table(predict: Callable[..., Result]) -> None:
    result = predict("login.a.example", "b.example")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "Class         p(malicious)  Verdict       Input",
        "malicious           90.00%  malicious     login.a.example",
        "    log-odds of malicious: -0.50 for an empty text, +0.50 for this one",
        "      +2.00  ++++++++++++++++++++  host         login.",
        "      -1.00  ----------            host         a.example",
        "benign              20.00%  benign        b.example",
    ]
    assert "2 results: 1 benign, 1 malicious." in result.stderr
    assert "The verdict is malicious if p(malicious) is at least 50.00%." in result.stderr


def test_skipped_inputs_end_with_exit_code_3(predict: Callable[..., Result]) -> None:
    result = predict("bad.example", "b.example", "-", "--json", stdin=b"c.example\na\0b\n")
    assert result.exit_code == 3
    *lines, error = map(json.loads, result.stdout.splitlines())
    assert [(line["input"], line["status"]) for line in lines] == [
        ("bad.example", "skipped"),
        ("b.example", "judged"),
        ("c.example", "judged"),
        ("a\\x00b", "skipped"),
    ]
    assert error["error"]["message"] == "2 of 4 results were skipped: unreadable inputs"
    assert error["error"]["details"][0] == "bad.example: unreadable"
    assert "Error: 2 of 4 results were skipped: unreadable inputs" in result.stderr


def test_files(predict: Callable[..., Result]) -> None:
    result = predict("login.a.example", "bad,x", "--csv", "out.csv", "--html", "out.html", "--quiet")
    assert result.exit_code == 3
    with Path("out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "input": "login.a.example", "status": "judged", "class": "malicious", "probability": "0.900000",
        "verdict": "malicious", "text": "", "judged": "", "note": "",
    }  # fmt: skip
    assert (rows[1]["input"], rows[1]["note"]) == ("bad,x", "unreadable")
    page = Path("out.html").read_text(encoding="utf-8")
    assert "2 results: 1 malicious, 1 skipped. The verdict is malicious if p(malicious) is at least 50.00%." in page
    assert '90.00% <span class="muted">malicious</span>' in page
    assert page.endswith("</html>\n")


class FakeWriter:
    """Writes a file for each input that is not bad."""

    def predict(self, inputs: Iterable[Any]) -> Iterator[FilePrediction]:
        for one in inputs:
            if "bad" in one.name:
                yield FilePrediction(one.name, "skipped", note="is truncated")
            else:
                yield FilePrediction(one.name, "written", "", 2_000_000, 31.25, ("out/a.ply", "out/a.npz"))


def test_results_that_are_files(fake_service: Run, predict: Callable[..., Result]) -> None:
    fake_service("predict", open_predictor=FakeWriter())
    result = predict("a.ply", "bad.ply", "--csv", "out.csv", "--html", "out.html")
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        "Status              Points  Seconds       Input -> files",
        "written          2,000,000  31.2          a.ply -> out/a.ply, out/a.npz",
        "skipped                                   bad.ply: is truncated",
    ]
    assert "2 results: 1 skipped, 1 written." in result.stderr
    assert "bad.ply: is truncated" in result.stderr
    assert Path("out.csv").read_text().splitlines() == [
        "input,status,points,seconds,files,note",
        "a.ply,written,2000000,31.250,out/a.ply;out/a.npz,",
        "bad.ply,skipped,,,,is truncated",
    ]
    page = Path("out.html").read_text(encoding="utf-8")
    assert "out/a.ply, out/a.npz" in page
    assert "2,000,000 points, 31.2 s" in page
    lines = predict("a.ply", "bad.ply", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines[:2]] == [
        {"input": "a.ply", "status": "written", "note": None, "points": 2_000_000, "seconds": 31.25,
         "files": ["out/a.ply", "out/a.npz"]},
        {"input": "bad.ply", "status": "skipped", "note": "is truncated", "points": None, "seconds": None, "files": []},
    ]  # fmt: skip


def test_a_file_never_replaces_an_input(predict: Callable[..., Result]) -> None:
    Path("urls.csv").write_text("url\na.example\n")
    result = predict("urls.csv", "--csv", "./urls.csv")
    assert result.exit_code == 2
    assert "--csv: urls.csv is one of the inputs" in result.stderr
    assert Path("urls.csv").read_text() == "url\na.example\n"
    assert predict("a.example", "--html", "no-such-folder/x.html").exit_code == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--csv", "--html"])
def test_a_full_disk(option: str, predict: Callable[..., Result]) -> None:
    result = predict("a.example", "b.example", option, "/dev/full")
    assert result.exit_code == 6
    assert "/dev/full cannot be written: No space left on device" in result.stderr


def test_a_run_that_cannot_be_opened_leaves_the_files_alone(fake_service: Run, predict: Callable[..., Result]) -> None:
    Path("out.csv").write_text("old")
    fake_service("predict", open_predictor=CheckpointError("damaged"))
    assert predict("a.example", "--csv", "out.csv").exit_code == 4
    assert Path("out.csv").read_text() == "old"


def test_options(predict: Any) -> None:
    predict("a.example", "--explain", "--device", "cpu")
    predict("a.example")
    explained, default = predict.calls
    assert (explained["explain"], default["explain"]) == (True, False)
    assert [override.value for override in explained["overrides"]] == ["cpu"]


def test_results_are_not_computed_once_nobody_reads_them(
    predict: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbbd_cli.cli.terminal import predictions

    written: list[str] = []
    monkeypatch.setattr(predictions, "write_result", lambda text: written.append(text) or len(written) < 2)
    assert predict("a.example", "b.example", "c.example").exit_code == 0
    assert len(written) == 2
    assert predict("a.example", "b.example", "c.example", "--csv", "out.csv").exit_code == 0
    assert len(Path("out.csv").read_text().splitlines()) == 4


def test_control_codes_in_names_are_escaped(predict: Callable[..., Result]) -> None:
    result = predict("\x1b[31mbad")
    assert "\x1b" not in result.stdout + result.stderr


def test_an_empty_stream(predict: Callable[..., Result]) -> None:
    result = predict("-")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No results." in result.stderr
