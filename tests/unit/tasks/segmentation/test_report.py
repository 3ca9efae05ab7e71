"""The report is checked before it is drawn, and drawn and tabulated as far as it has data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dbbd_cli.report.tables import Note, Table
from dbbd_cli.tasks.segmentation.evaluation_schema import SegmentationEvaluation
from dbbd_cli.tasks.segmentation.figures import segmentation_figures
from dbbd_cli.tasks.segmentation.tables import segmentation_tables

WHOLE: dict[str, Any] = {
    "format": 1,
    "split": "test",
    "num_samples": 3,
    "miou": 0.3,
    "overall_accuracy": 0.8,
    "miou_interval": [0.2, 0.4],
    "classes": ["ground", "tree", "pole"],
    "class_scores": [
        {"iou": 0.8, "iou_interval": [0.7, 0.85], "accuracy": 0.9, "precision": 0.9, "points": 90},
        {"iou": 0.1, "iou_interval": None, "accuracy": 0.2, "precision": None, "points": 10},
        {"iou": None, "points": 0},
    ],
    "confusion_matrix": [[80, 10, 0], [8, 2, 0], [0, 0, 0]],
    "baselines": [{"name": "most frequent class", "miou": 0.35, "per_class_iou": [0.9, 0.0, None]}],
    "baseline_missing": "scikit-learn is not installed",
}


def test_a_whole_report_is_accepted() -> None:
    assert SegmentationEvaluation.model_validate(WHOLE).miou == 0.3


@pytest.mark.parametrize(
    "change",
    [
        {"miou": 1.5},
        {"miou_interval": [0.1]},
        {"classes": ["ground"]},
        {"class_scores": WHOLE["class_scores"][:2]},
        {"confusion_matrix": [[1, 2], [3, 4]]},
        {"baselines": [{"name": "x", "per_class_iou": [0.1]}]},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SegmentationEvaluation.model_validate({**WHOLE, **change})


def test_a_network_that_does_not_beat_a_baseline_is_named() -> None:
    sections = segmentation_tables(WHOLE, "scenes")
    notes = [section.text for section in sections if isinstance(section, Note)]
    assert "The network is no better than: most frequent class." in notes
    assert any("scikit-learn" in note for note in notes)
    classes = next(section for section in sections if isinstance(section, Table) and section.title == "Classes")
    assert classes.rows[0][:2] == ("ground", "80.00% (70.00% to 85.00%)")
    assert segmentation_tables({}, "scenes")


@pytest.mark.parametrize("with_scene", [True, False])
def test_figures_are_drawn_as_far_as_there_is_data(with_scene: bool) -> None:
    scene = None
    if with_scene:
        coord = np.random.default_rng(0).random((200, 3)).astype(np.float32)
        place = np.arange(200, dtype=np.int32)
        scene = {"coord": coord, "segment": place % 4 - 1, "prediction": place % 3}
    drawings = segmentation_figures({**WHOLE, "scene": {"name": "a", "classes": WHOLE["classes"]}}, scene)
    assert list(drawings) == ["class_iou", "confusion_matrix", *(["scene_segmentation"] if with_scene else [])]
    for draw in drawings.values():
        draw().canvas.draw()
    assert segmentation_figures({}, None) == {}
