"""The figures of a classification report show its numbers, and hostile names as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dbbd_cli.report.classification.figures import classification_figures
from dbbd_cli.report.drawing import draw
from dbbd_cli.report.save import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
Make = Callable[..., Any]
NAMES = ["confusion_matrix", "roc", "precision_recall", "reliability"]


def drawn(evaluation: dict[str, Any]) -> dict[str, Figure]:
    return draw(classification_figures(evaluation))


def texts(figure: Figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def ticks(figure: Figure, axis: str) -> list[str]:
    return [label.get_text() for label in getattr(figure.axes[0], f"get_{axis}ticklabels")()]


def test_all_figures_name_the_split_and_synthetic_data(evaluation_of: Make) -> None:
    figures = drawn(evaluation_of())
    assert list(figures) == NAMES
    for figure in figures.values():
        assert "synthetic data" in texts(figure)
        assert any("test split · 8 samples" in text for text in texts(figure))
    for figure in drawn({**evaluation_of(), "synthetic": False}).values():
        assert not any("synthetic" in text for text in texts(figure))


def test_only_what_was_measured_is_drawn(evaluation_of: Make) -> None:
    assert drawn({"format": 1, "task": "other", "loss": 0.5}) == {}
    assert list(drawn({**evaluation_of(), "curves": None})) == ["confusion_matrix"]


def test_the_confusion_matrix_is_colored_by_share_of_the_true_class(evaluation_of: Make) -> None:
    evaluation = {**evaluation_of(), "confusion_matrix": [[700, 50], [1000, 9000]]}
    figure = drawn(evaluation)["confusion_matrix"]
    axes = figure.axes[0]
    shares = axes.images[0].get_array()
    assert shares is not None
    assert shares.tolist() == [[pytest.approx(700 / 750), pytest.approx(50 / 750)], [0.1, 0.9]]
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert cells[0, 0] == "700\n93.3%"
    assert cells[1, 0] == "50\n6.7%"  # x is the predicted class
    assert cells[0, 1] == "1,000\n10.0%"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class")
    assert ticks(figure, "x") == ticks(figure, "y") == ["benign", "malicious"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first class stands at the top


def test_a_class_without_samples_has_no_share(evaluation_of: Make) -> None:
    figures = drawn(evaluation_of(["a", "b", "c"], absent=[1]))
    axes = figures["confusion_matrix"].axes[0]
    shares = axes.images[0].get_array()
    assert shares is not None
    assert shares.tolist()[1] == [None, None, None]
    assert [text.get_text() for text in axes.texts if text.get_position()[1] == 1] == ["0\n-"] * 3
    assert [text.split(" ")[0] for text in legend(figures["roc"])] == ["a", "c", "chance"]


def test_roc_shows_curve_and_operating_points(evaluation_of: Make) -> None:
    figure = drawn(evaluation_of())["roc"]
    curve, chance, *points = figure.axes[0].get_lines()
    assert curve.get_xydata().tolist() == [[0, 0], [0.5, 0.9], [1, 1]]
    assert chance.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [point.get_xydata().tolist() for point in points] == [[[0.001, 0.1]], [[0.01, 0.3]]]
    assert legend(figure)[0] == "malicious (AUC 0.625)"
    assert legend(figure)[2:] == ["recall 10.0% at 0.1% FPR", "recall 30.0% at 1% FPR"]
    assert any("AUC 0.870" in text for text in texts(figure))


def test_precision_steps_to_the_higher_recall(evaluation_of: Make) -> None:
    evaluation = evaluation_of()
    line, chance = drawn(evaluation)["precision_recall"].axes[0].get_lines()
    assert line.get_xydata().tolist() == [[1, 0.5], [0.5, 0.8], [0, 1]]
    assert line.get_drawstyle() == "steps-post"
    assert list(chance.get_ydata()) == [0.5, 0.5]
    curve = evaluation["curves"]["precision_recall"][0]
    curve["recall"].reverse()
    curve["precision"].reverse()
    line = drawn(evaluation)["precision_recall"].axes[0].get_lines()[0]
    assert line.get_drawstyle() == "steps-pre"


def test_the_reliability_diagram_omits_empty_bins(evaluation_of: Make) -> None:
    figure = drawn(evaluation_of())["reliability"]
    upper, lower = figure.axes
    assert upper.get_lines()[1].get_xydata().tolist() == [[0.8, 0.75]]
    assert [bar.get_height() for bar in lower.patches] == [0, 1]
    assert any("expected calibration error 0.040" in text for text in texts(figure))


def test_the_reliability_diagram_of_no_samples_is_empty(evaluation_of: Make) -> None:
    evaluation = evaluation_of()
    evaluation["curves"]["reliability"] |= {"confidence": [None, None], "accuracy": [None, None], "count": [0, 0]}
    figure = drawn(evaluation)["reliability"]
    assert len(figure.axes[0].get_lines()[1].get_xydata()) == 0


def test_the_worst_curves_of_many_classes_are_drawn(evaluation_of: Make) -> None:
    classes = [f"class {index}" for index in range(1000)]
    evaluation = evaluation_of(classes, absent=[1])
    figures = drawn(evaluation)
    names = [text.rsplit(" (", 1)[0] for text in legend(figures["roc"])]
    assert names == [f"class {index}" for index in (0, 2, 3, 4, 5, 6, 7)] + ["chance level"]
    title = figures["roc"].axes[0].get_legend()
    assert title is not None
    assert "7 of 1,000 classes" in title.get_title().get_text()
    matrix = figures["confusion_matrix"].axes[0]
    assert len(matrix.texts) == 0
    assert len(ticks(figures["confusion_matrix"], "y")) == 40
    render(figures["confusion_matrix"], "png")


def test_a_larger_matrix_has_counts_only(evaluation_of: Make) -> None:
    figure = drawn(evaluation_of([f"c{index}" for index in range(20)]))["confusion_matrix"]
    assert {text.get_text() for text in figure.axes[0].texts} == {"3", "1"}


def test_hostile_class_names_are_shown_as_they_are(evaluation_of: Make) -> None:
    from matplotlib.text import Text

    classes = ["$x^2$", "_hidden", "<script>alert(1)</script>", "a\nb", "\x1b[31mred", "🙂\u0378", "y" * 500, "y" * 499]
    figures = drawn(evaluation_of(classes))
    labels = ticks(figures["confusion_matrix"], "x")
    assert labels[:2] == ["$x^2$", "_hidden"]
    assert labels[3:5] == ["a\\nb", "\\x1b[31mred"]
    assert labels[5].endswith("\\u0378")
    assert labels[6] != labels[7]
    assert max(map(len, labels)) <= 28
    assert legend(figures["roc"])[:2] == ["$x^2$ (AUC 0.500)", "_hidden (AUC 0.531)"]
    for figure in (figures["confusion_matrix"], figures["roc"]):
        dollars = [text for text in figure.findobj(Text) if isinstance(text, Text) and "$" in text.get_text()]
        assert dollars
        assert not any(text.get_parse_math() for text in dollars)
        render(figure, "png")
