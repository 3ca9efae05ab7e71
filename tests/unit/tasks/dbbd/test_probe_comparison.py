"""Pretraining is called better only if the difference exceeds chance, in numbers and in words."""

from __future__ import annotations

import numpy as np
import pytest

from dbbd_cli.tasks.dbbd.probe_comparison import compare


def counts(iou: float, num_scenes: int, spread: float = 0.0) -> np.ndarray:
    """Counts of scenes with two classes, whose IoU alternates by ± `spread`, `(S, 3, 2)`."""
    ious = iou + spread * np.where(np.arange(num_scenes) % 2, 1, -1)
    labeled = np.full((num_scenes, 2), 1000)
    correct = np.rint(labeled * (2 * ious / (1 + ious))[:, None]).astype(np.int64)
    return np.stack([correct, labeled, labeled], axis=1)


def result(pretrained: np.ndarray, random: np.ndarray) -> tuple[dict[str, object], str]:
    found = compare({"pretrained": pretrained, "random encoder": random}, seed=3)
    (row,) = found["comparison"]
    return row, found["conclusion"]


def test_a_difference_beyond_chance_is_reported_as_better() -> None:
    row, text = result(counts(0.6, 20, 0.05), counts(0.5, 20, 0.05))
    assert row["better"] == "yes"
    assert row["miou_difference"] == pytest.approx(0.1, abs=0.01)
    assert 0.05 < row["low"] <= row["miou_difference"] <= row["high"] < 0.15  # type: ignore[operator]
    assert text.startswith("Pretraining beat a random encoder: its mIoU is higher by 10.0 percentage points (95% inter")
    assert text.endswith("The intervals come from resampling the 20 test scenes.")


def test_features_that_are_not_better_are_reported_as_such() -> None:
    row, text = result(counts(0.4, 20), counts(0.5, 20))
    assert row["better"] == "no"
    assert text.startswith("Pretraining did not beat a random encoder: its mIoU is lower by 10.1 percentage points")
    row, text = result(counts(0.5, 20), counts(0.5, 20))
    assert (row["better"], row["miou_difference"]) == ("no", 0.0)
    assert text.startswith("Pretraining did not beat a random encoder: its mIoU is the same")


def test_a_difference_that_rounds_to_zero_is_not_called_higher() -> None:
    better = counts(0.5, 20)
    better[0, 0, 0] += 1
    row, text = result(better, counts(0.5, 20))
    assert 0 < abs(row["miou_difference"]) < 0.0005  # type: ignore[arg-type]
    assert "its mIoU is the same within 0.1 percentage points (95% interval" in text


def test_a_difference_that_depends_on_the_scenes_is_unclear() -> None:
    row, text = result(counts(0.51, 6, 0.2), counts(0.5, 6, -0.2))
    assert row["low"] < 0 < row["miou_difference"] < row["high"]  # type: ignore[operator]
    assert row["better"] == "unclear"
    assert text.startswith("It is unclear whether pretraining beat a random encoder")
    assert text.endswith("resampling the 6 test scenes, too few for reliable intervals.")


def test_one_scene_has_no_interval() -> None:
    row, text = result(counts(0.6, 1), counts(0.5, 1))
    assert (row["low"], row["high"], row["better"]) == (None, None, "unclear")
    assert "only one test scene" in text


def test_the_comparison_is_reproducible_and_handles_missing_classes() -> None:
    first, second = counts(0.6, 5), counts(0.5, 5)
    for values in (first, second):
        values[:3, :, 1] = 0
        values[3:, :, 0] = 0
    assert result(first, second) == result(first, second)
    assert np.isfinite([result(first, second)[0][key] for key in ("low", "high")]).all()  # type: ignore[list-item]
