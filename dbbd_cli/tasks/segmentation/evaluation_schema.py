"""What `evaluation.json` holds for segmentation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dbbd_cli.report.evaluation import MAX_ROWS, Count, Evaluation, Fraction, Part

Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class ClassScores(Part):
    """The scores of one class; None without labeled or predicted points."""

    iou: Fraction | None = None
    iou_interval: Interval | None = None
    accuracy: Fraction | None = None
    precision: Fraction | None = None
    points: Count | None = None


class Baseline(Part):
    """The scores of something that the network must beat."""

    name: str
    miou: Fraction | None = None
    mean_accuracy: Fraction | None = None
    overall_accuracy: Fraction | None = None
    per_class_iou: list[Fraction | None] | None = None


class DrawnScene(Part):
    """The scene that is drawn."""

    name: str | None = None
    classes: list[str] | None = None


class SegmentationEvaluation(Evaluation):
    """The report of a segmentation on a split."""

    num_points: Count | None = None
    ignored_points: Count | None = None
    miou: Fraction | None = None
    mean_accuracy: Fraction | None = None
    overall_accuracy: Fraction | None = None
    miou_interval: Interval | None = None
    classes: list[str] | None = None
    class_scores: list[ClassScores] | None = None
    confusion_matrix: list[list[Count]] | None = None
    baselines: Annotated[list[Baseline], Field(max_length=MAX_ROWS)] | None = None
    baseline_missing: str | None = None
    scene: DrawnScene | None = None

    @model_validator(mode="after")
    def _lengths(self) -> SegmentationEvaluation:
        matrix, num_classes = self.confusion_matrix, len(self.classes or [])
        if matrix and {len(matrix), *map(len, matrix)} != {num_classes}:
            raise ValueError("confusion_matrix does not match classes")
        if self.class_scores and len(self.class_scores) != num_classes:
            raise ValueError("class_scores do not match classes")
        if any(row.per_class_iou is not None and len(row.per_class_iou) != num_classes for row in self.baselines or []):
            raise ValueError("per_class_iou does not match classes")
        return self
