"""Results are complete and fit, on wide and narrow terminals and in files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from example_results import FACTS, RUN, TRAINED, evaluation, pretraining

from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.cli.terminal.evaluation_table import evaluate
from dbbd_cli.cli.terminal.tables import forecast, smoke, train
from dbbd_cli.services.results import BestValue, EvaluateResult, Forecast, SmokeResult, SmokeStep

WIDTHS = (40, 80, 120)
FORECAST = Forecast(FACTS, 10, 444.0, 4440.0, 3000.0, 590.0, 2360.0, 400.0, 0.6931)


class Terminal(io.StringIO):
    """A terminal that records what is written to it."""

    def isatty(self) -> bool:
        return True


class Show:
    """Shows results on a stand-in for standard output, which is replaced only meanwhile because pytest does so too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, result: Any, describe: Callable[..., Any], width: int | None = None, stream: Any = None) -> str:
        stream = stream or (Terminal() if width else io.StringIO())
        with self._monkeypatch.context() as patch:
            if width:
                patch.setenv("COLUMNS", str(width))
            patch.setattr("sys.stdout", stream)
            Output(as_json=False, style="none", quiet=False).show(result, describe)
        return str(stream.getvalue())


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """What a result looks like in a file, or on a terminal of some width."""
    return Show(monkeypatch)


def evaluated(classes: list[str]) -> EvaluateResult:
    return EvaluateResult(RUN, RUN / "best_model.pth", evaluation(classes), [RUN / "evaluation.json"])


def test_train(show: Show) -> None:
    shown = show(TRAINED, train)
    lines = {tuple(re.split(r"\s\s+", line.strip())) for line in shown.splitlines()}
    assert {
        ("Images", "7,000 train / 1,500 val / 1,500 test"),
        ("Batches", "219 train / 47 val / 47 test"),
        ("Parameters", "51,539,906"),
        ("Size", "196.61 MB"),
        ("Total time", "7.4 min"),
        ("Best epoch", "7 (lowest validation loss)"),
        ("Val. loss", "0.4321"),
        ("Val. accuracy", "80.13% (highest 82.27% in epoch 9)"),
        (f"dbbd evaluate {RUN}",),
        (f"dbbd resume {RUN} --epochs 20",),
    } <= lines
    assert "SYNTHETIC" in shown


def test_the_metric_that_decides_is_shown_for_the_best_epoch(show: Show) -> None:
    by_f1 = replace(TRAINED, metric="f1", best_values={**TRAINED.best_values, "f1": BestValue(7, 0.7991)})
    lines = {tuple(re.split(r"\s\s+", line.strip())) for line in show(by_f1, train).splitlines()}
    assert {("Best epoch", "7 (highest validation F1)"), ("Val. F1", "79.91%")} <= lines


@pytest.mark.parametrize("width", [None, 40])
def test_a_run_that_had_already_finished(width: int | None, show: Show) -> None:
    shown = show(replace(TRAINED, finished_before=True), train, width)
    assert " ".join(shown.split()) == (
        f"This run has already finished its 10 epochs. To train it further: dbbd resume {RUN} --epochs 20"
    )
    early = show(replace(TRAINED, finished_before=True, stopped_early=True, epochs=1), train, width)
    assert "This run stopped early, after 1 epoch." in " ".join(early.split())


def test_no_control_codes_in_files(show: Show) -> None:
    for shown in (show(TRAINED, train), show(evaluated(["benign", "malicious"]), evaluate)):
        assert "\x1b" not in shown
        assert not any(line.endswith(" ") for line in shown.splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_paths_and_commands_are_never_broken(width: int, show: Show) -> None:
    shown = show(TRAINED, train, width) + show(evaluated(["benign", "malicious"]), evaluate, width)
    for whole in (TRAINED.best_model, TRAINED.checkpoint, TRAINED.plots[0], RUN / "evaluation.json"):
        assert str(whole) in shown
    assert f"dbbd resume {RUN} --epochs 20" in shown
    assert "…" not in shown


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [2, 3, 10, 11])
def test_everything_else_fits_the_terminal(width: int, count: int, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    result = evaluated([f"a class with a long name {index}" for index in range(count)])
    shown = show(result, evaluate, width) + show(FORECAST, forecast, width)
    assert [line for line in shown.splitlines() if len(line) > width and str(RUN) not in line] == []


def test_evaluation_of_two_classes(show: Show) -> None:
    shown = show(evaluated(["benign", "malicious"]), evaluate)
    lines = [re.split(r"\s\s+", line.strip()) for line in shown.splitlines()]
    for row in (
        ["Accuracy", "80.13%"],
        ["ROC AUC", "0.9000"],
        ["Recall at 0.1% FPR", "10.00%"],
        ["Multiply-adds", "557.2 million per image"],
    ):
        assert row in lines
    start = lines.index(["Confusion matrix (rows: true class, columns: predicted class)"])
    assert lines[start + 1 : start + 4] == [
        ["benign", "malicious"],
        ["benign", "100", "100"],
        ["malicious", "101", "101"],
    ]


def test_of_many_classes_the_worst_are_shown(show: Show) -> None:
    shown = show(evaluated([f"c{index:04}" for index in range(1000)][::-1]), evaluate)
    assert "the 20 of 1,000 with the lowest F1" in shown
    assert re.findall(r"^  (c\d+)", shown, re.MULTILINE) == [f"c{index:04}" for index in range(999, 979, -1)]
    assert "Confusion matrix" not in shown


def test_control_codes_in_class_names_are_escaped(show: Show) -> None:
    shown = show(evaluated(["[red]x[/red]", "y\x1b[2J\n\u202ez"]), evaluate)
    assert "[red]x[/red]" in shown
    assert "y\\x1b[2J\\n\\u202ez" in shown


def pretrained(classes: list[str], **changes: object) -> EvaluateResult:
    return EvaluateResult(RUN, RUN / "best_model.pth", {**pretraining(classes), **changes}, [RUN / "evaluation.json"])


def test_the_table_says_whether_pretraining_beat_the_others(show: Show) -> None:
    report = pretraining(["floor"])
    for width in (None, 40):
        shown = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", show(pretrained(["floor"]), evaluate, width)).split())
        assert "Pretraining beat a random encoder. Pretraining did not beat the raw features." in shown
    earlier = {key: value for key, value in report["probe"].items() if key not in ("conclusion", "comparison")}  # type: ignore[attr-defined]
    assert "Pretraining" not in show(pretrained(["floor"], probe=earlier), evaluate)


def test_evaluation_of_pretraining(show: Show) -> None:
    shown = show(pretrained(["floor", "wall"]), evaluate)
    lines = [re.split(r"\s\s+", line.strip()) for line in shown.splitlines()]
    for row in (
        ["Scenes", "6"],
        ["Points", "203,411"],
        ["Region loss", "2.5900"],
        ["Uniformity", "-2.9300"],
        ["Rows", "Loss", "Chance", "Top-1"],
        ["level 1", "14", "0.7400", "2.6400", "81.00%"],
        ["points", "4,096", "4.3300", "8.3178", "-"],
        ["mIoU", "Mean acc.", "Overall acc."],
        ["random encoder", "25.60%", "30.50%", "42.00%"],
        ["pretrained", "random encoder", "raw features"],
        ["floor", "0.00%", "0.00%", "0.00%"],
        ["wall", "-", "-", "-"],
        ["Time per batch", "812.3 ms (790.1 to 861.7), 4 scenes"],
        ["Throughput", "4.9 scenes/s, 168,000 points/s"],
        [str(RUN / "evaluation.json")],
    ):
        assert row in lines
    assert "SYNTHETIC" in shown
    assert "trained on 28 scenes, tested on 6" in shown


def test_ignored_labels_are_shown_where_there_are_any(show: Show) -> None:
    assert "Ignored labels" not in show(pretrained(["floor", "wall"], ignored_labels=[]), evaluate)
    ignored = [{"label": 255, "points": 1204}, {"label": None, "points": 1}]
    shown = show(pretrained(["floor", "wall"], ignored_labels=ignored), evaluate)
    assert "255 (1,204 points), negative or NaN (1 point)" in " ".join(shown.split())


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("count", [2, 30])
def test_pretraining_fits(width: int, count: int, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    classes = [f"a class with a long name {index}" for index in range(count)]
    reason = "the probe is trained on the training split; evaluate another one"
    shown = show(pretrained(classes), evaluate, width) + show(
        pretrained(classes, probe=None, probe_missing=reason), evaluate, width
    )
    assert [line for line in shown.splitlines() if len(line) > width and str(RUN) not in line] == []
    assert "…" not in shown
    assert reason in " ".join(shown.split())


def test_not_enough_disk(show: Show) -> None:
    assert "Not enough free disk" in show(FORECAST, forecast)


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_smoke_shows_why_a_step_failed(width: int | None, show: Show) -> None:
    steps = [SmokeStep("t", "train", 1.0, True, "fine"), SmokeStep("t", "plot", 1.0, False, "no figure")]
    shown = show(SmokeResult(Path("runs/smoke"), "cuda:0 (a GPU)", "bf16", steps, 2.0), smoke, width)
    above = shown.split("Step")[0]
    for words in ("on synthetic data", "cuda:0 (a GPU)", "bf16"):
        assert words in above
    assert "no figure" in shown
    assert "1 of 2 steps failed" in shown


def test_colors_on_a_terminal_only(show: Show) -> None:
    assert "\x1b[1m" in show(TRAINED, train, 80)
    assert "\x1b" not in show(TRAINED, train)


def test_a_closed_pipe_is_not_an_error(show: Show, tmp_path: Path) -> None:
    with (tmp_path / "stdout").open("w") as stand_in:

        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

            def fileno(self) -> int:
                return stand_in.fileno()

        show(TRAINED, train, stream=Gone())
