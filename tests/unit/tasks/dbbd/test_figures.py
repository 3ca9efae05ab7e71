"""The figures of an evaluation of DBBD show its numbers and its scene, and hostile names as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dbbd_cli.report.drawing import draw
from dbbd_cli.report.palette import CLASS_COLORS, UNKNOWN
from dbbd_cli.report.save import render
from dbbd_cli.tasks.dbbd.figures import dbbd_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
Make = Callable[..., Any]
NAMES = ["level_losses", "probe", "label_efficiency", "scene_features", "region_tree"]


def drawn(evaluation: dict[str, Any], scene: Any = None) -> dict[str, Figure]:
    return draw(dbbd_figures(evaluation, scene))


def texts(figure: Figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def names(axes: Axes, axis: str = "y") -> list[str]:
    return [label.get_text() for label in getattr(axes, f"get_{axis}ticklabels")()]


def places(axes: Axes, marker: str) -> list[tuple[float, float]]:
    """The positions of all marks of a kind."""
    lines = [line for line in axes.get_lines() if line.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in line.get_xydata()]


def test_all_figures_name_the_split_and_synthetic_data(pretraining_of: Make, scene_of: Make) -> None:
    figures = drawn(pretraining_of(), scene_of())
    assert list(figures) == NAMES
    for figure in figures.values():
        assert "synthetic data" in texts(figure)
        assert any("test split" in text for text in texts(figure))
    assert any("scene room00003 · 400 points" in text for text in texts(figures["scene_features"]))
    for figure in drawn({**pretraining_of(), "synthetic": False}, scene_of()).values():
        assert not any("synthetic" in text for text in texts(figure))


def test_only_what_was_measured_is_drawn(pretraining_of: Make, scene_of: Make) -> None:
    assert drawn({"format": 1, "task": "dbbd"}) == {}
    whole = pretraining_of()
    assert list(drawn(whole)) == NAMES[:3]
    assert list(drawn({**whole, "probe": None, "label_efficiency": None, "contrast": None}, scene_of())) == NAMES[3:]
    whole["probe"]["features"] = []
    whole["label_efficiency"]["curves"] = []
    assert list(drawn(whole)) == NAMES[:1]


def test_losses_are_compared_with_the_chance_level(pretraining_of: Make) -> None:
    figure = drawn(pretraining_of())["level_losses"]
    left, right = figure.axes
    assert names(left) == ["level 1\n32 candidates", "points\n4,096 candidates"]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first level stands at the top
    assert places(left, "o") == [(1.5, 0), (8.5, 1)]
    assert places(left, "|") == [(3.4657, 0), (8.3178, 1)]
    better, worse = (line.get_color() for line in left.get_lines() if line.get_marker() == "None")
    assert better != worse  # the points do worse than guessing
    assert [bar.get_width() for bar in right.patches] == [0.75, 0.125]
    assert places(right, "|") == [(1 / 32, 0), (1 / 4096, 1)]
    assert {"75.0%", "12.5%"} <= set(texts(figure))
    assert legend(figure) == ["loss", "chance level", "top-1 accuracy"]
    assert any("loss 3.100 · regions 1.500 · points 3.200" in text for text in texts(figure))


def test_a_level_without_values_keeps_its_place(pretraining_of: Make) -> None:
    nothing = dict.fromkeys(("rows", "loss", "chance", "top1"))
    contrast = [{"name": "level 0", **nothing}, {"name": "level 1", **nothing, "loss": 0.0, "chance": 0.0, "rows": 0}]
    figure = drawn({**pretraining_of(), "contrast": contrast})["level_losses"]
    assert names(figure.axes[0]) == ["level 0", "level 1\n0 candidates"]
    assert places(figure.axes[0], "o") == [(0, 1)]
    assert len(figure.axes[1].patches) == 0
    render(figure, "png")


def test_the_probe_compares_kinds_of_features(pretraining_of: Make) -> None:
    figure = drawn(pretraining_of())["probe"]
    means, classes = figure.axes
    assert names(means, "x") == ["mIoU", "Mean accuracy", "Overall accuracy"]
    assert [bar.get_height() for bar in means.patches] == [
        pytest.approx(score * share) for share in (1, 0.5, 0.25) for score in (0.5, 0.6, 0.8)
    ]
    assert len({bar.get_facecolor() for bar in means.patches}) == 3
    assert names(classes) == ["floor", "wall", "chair"]
    assert places(classes, "o") == [(0.9, 0), (pytest.approx(0.9 - 0.8 / 3), 1)]
    assert [x for x, _ in places(classes, "D")] == [0.225, pytest.approx((0.9 - 0.8 / 3) / 4)]
    assert "no points in these scenes" in texts(figure)
    assert legend(figure)[0] == "pretrained (192 dimensions)"
    assert any("trained on 28 labeled scenes, tested on 6" in text for text in texts(figure))
    assert "Pretraining did not beat a random encoder" in " ".join(texts(figure))
    without = pretraining_of()
    del without["probe"]["conclusion"]  # of an earlier version
    assert drawn(without)["probe"].get_figheight() < figure.get_figheight()


def test_a_probe_without_classes_or_scores_is_drawn(pretraining_of: Make) -> None:
    report = pretraining_of(["only"])
    for entry in report["probe"]["features"]:
        entry |= {"miou": None, "dim": None, "per_class_iou": []}
    report["probe"] |= {"classes": [], "train_scenes": None}
    figure = drawn(report)["probe"]
    assert len(figure.axes) == 1
    assert "-" in texts(figure)
    assert legend(figure) == ["pretrained", "random encoder", "raw features"]


def test_the_worst_of_many_classes_are_drawn(pretraining_of: Make) -> None:
    figure = drawn(pretraining_of([f"class {index}" for index in range(200)]))["probe"]
    assert names(figure.axes[1]) == [f"class {index}" for index in range(160, 200)]
    assert "the 40 of 200 with the lowest" in figure.axes[1].get_title(loc="left")
    assert figure.get_figheight() < 14


def test_label_efficiency_has_a_curve_with_its_range_for_each_kind(pretraining_of: Make) -> None:
    figure = drawn(pretraining_of())["label_efficiency"]
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert names(axes, "x") == ["1", "28 (all)"]
    assert places(axes, "o") == [(1, pytest.approx(0.2)), (28, pytest.approx(0.5))]
    assert len(axes.collections) == 4
    band = axes.collections[-1].get_paths()[0].vertices  # of the pretrained features, which lie on top
    assert {round(float(y), 6) for x, y in band if x == 1} == {0.17, 0.24}
    assert legend(figure) == ["pretrained", "random encoder", "raw features", "random forest"]
    assert any("mean and range of 3 draws" in text for text in texts(figure))


def test_label_efficiency_with_gaps_is_drawn(pretraining_of: Make) -> None:
    report = pretraining_of()
    for curve in report["label_efficiency"]["curves"][1:]:
        for point in curve["points"]:
            point |= dict.fromkeys(("draws", "miou", "std", "low", "high"))
    report["label_efficiency"]["curves"][0]["points"][0] |= {"scenes": 0}
    figure = drawn(report)["label_efficiency"]
    assert places(figure.axes[0], "o") == [(28, pytest.approx(0.5))]
    render(figure, "png")


def test_labels_have_the_colors_of_the_legend(pretraining_of: Make, scene_of: Make) -> None:
    from matplotlib.colors import to_hex

    figure = drawn(pretraining_of(), scene_of())["scene_features"]
    assert legend(figure) == ["floor", "wall", "unlabeled"]
    patches = figure.legends[0].get_patches()
    assert [to_hex(patch.get_facecolor()) for patch in patches] == [*CLASS_COLORS[:2], UNKNOWN]
    picture = np.asarray(figure.axes[1].images[0].get_array())
    shown = {tuple(pixel) for pixel in picture[picture[..., 3] > 0][:, :3].tolist()}
    assert {tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in (*CLASS_COLORS[:2], UNKNOWN)} <= shown


def test_without_labels_only_the_features_are_drawn(pretraining_of: Make, scene_of: Make) -> None:
    figure = drawn(pretraining_of(), scene_of(labels=False))["scene_features"]
    assert len(figure.axes) == 1
    assert figure.legends == []


def test_a_label_without_a_name_has_a_number(pretraining_of: Make, scene_of: Make) -> None:
    scene = scene_of()
    scene["segment"][:] = 2**31 - 1  # a table of all colors up to here would fill the memory
    scene["segment"][:200] = 0
    figure = drawn({**pretraining_of(), "scene": None}, scene)["scene_features"]
    assert legend(figure) == ["class 0", "class 2147483647"]


def test_the_tree_has_a_panel_for_each_level_but_the_root(pretraining_of: Make, scene_of: Make) -> None:
    scene = scene_of()
    titles = [axes.get_title(loc="left") for axes in drawn(pretraining_of(), scene)["region_tree"].axes]
    assert titles == ["Level 1: 4 regions", "Level 2: 8 regions"]
    scene["region"] = scene["region"][:1]
    figure = drawn(pretraining_of(), scene)["region_tree"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Level 0: 1 region"]
    scene["region"] = np.repeat(scene["region"], 33, axis=0)
    figure = drawn(pretraining_of(), scene)["region_tree"]
    assert len(figure.axes) == 6
    assert any("levels 1 to 6 of 32" in text for text in texts(figure))


def test_a_whole_scene_makes_small_files(pretraining_of: Make, scene_of: Make) -> None:
    figures = drawn({**pretraining_of(), "contrast": None, "probe": None, "label_efficiency": None}, scene_of(20_000))
    for figure in figures.values():
        assert len(render(figure, "svg")) < 2_000_000  # the format with the largest files


def test_equal_evaluations_make_equal_bytes(pretraining_of: Make, scene_of: Make) -> None:
    first, second = (drawn(pretraining_of(), scene_of(50)) for _ in range(2))
    for name in NAMES[:4]:  # the tree is drawn as the features are
        assert render(first[name], "svg") == render(second[name], "svg")


def test_hostile_names_are_shown_as_they_are(pretraining_of: Make, scene_of: Make) -> None:
    hostile = ["$x^2$", "_hidden", "\x1b[31mred\n", "猫\u0378", "y" * 500, "y" * 499]
    report = pretraining_of(hostile)
    for entry, name in zip(report["probe"]["features"], hostile[2:], strict=False):
        entry["name"] = name
    report["contrast"] = [{"name": name, "loss": 1.0} for name in hostile]
    report["scene"]["name"] = "\x1b[2J$\\frac$" * 50
    scene = scene_of()
    scene["segment"] = (np.arange(400) % 6).astype(np.int32)
    figures = drawn(report, scene)
    for shown in (legend(figures["scene_features"]), names(figures["level_losses"].axes[0])):
        assert shown[:3] == ["$x^2$", "_hidden", "\\x1b[31mred\\n"]
        assert shown[3].endswith("\\u0378")
        assert shown[4] != shown[5]
        assert max(map(len, shown)) <= 28
    assert set(names(figures["probe"].axes[1])) == set(shown)
    for figure in figures.values():
        assert not any("\x1b" in text for text in texts(figure))
        render(figure, "png")
