"""What `evaluation.json` holds for DBBD."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dbbd_cli.report.evaluation import MAX_ROWS, Count, Evaluation, Fraction, Number, Part


class Contrast(Part):
    """How well the two branches agree on one level of the region tree, or on points, among `rows` candidates."""

    name: str
    rows: Annotated[Number, Field(ge=0)] | None = None
    loss: Number | None = None
    chance: Number | None = None
    top1: Fraction | None = None


class ProbedFeatures(Part):
    """Scores of a linear probe on one kind of features."""

    name: str
    dim: Count | None = None
    miou: Fraction | None = None
    mean_accuracy: Fraction | None = None
    overall_accuracy: Fraction | None = None
    per_class_iou: list[Fraction | None]


class Comparison(Part):
    """Whether pretraining beat other features: yes, no or unclear."""

    better: str


class Probe(Part):
    """The linear probe of all kinds of features."""

    classes: list[str]
    features: Annotated[list[ProbedFeatures], Field(max_length=MAX_ROWS)]
    train_scenes: Count | None = None
    test_scenes: Count | None = None
    train_points: Count | None = None
    test_points: Count | None = None
    comparison: list[Comparison] | None = None
    conclusion: str | None = None

    @model_validator(mode="after")
    def _lengths(self) -> Probe:
        if any(len(features.per_class_iou) != len(self.classes) for features in self.features):
            raise ValueError("per_class_iou does not match classes")
        return self


class LabeledScenes(Part):
    """Scores of probes that know the labels of `scenes` training scenes, over `draws` draws of these scenes."""

    scenes: Count
    draws: Count | None = None
    miou: Fraction | None = None
    std: Annotated[Number, Field(ge=0)] | None = None
    low: Fraction | None = None
    high: Fraction | None = None


class LabelCurve(Part):
    """How the scores of one kind of features grow with the labels."""

    name: str
    points: Annotated[list[LabeledScenes], Field(max_length=MAX_ROWS)]


class LabelEfficiency(Part):
    """How many labeled scenes the kinds of features need."""

    curves: Annotated[list[LabelCurve], Field(max_length=MAX_ROWS)]
    train_scenes: Count | None = None
    test_scenes: Count | None = None
    forest_missing: str | None = None


class EncodedIn(Part):
    """How well a linear regression reads each target from one kind of features: R²."""

    name: str
    r2: list[Number | None]


class Encoded(Part):
    """What the kinds of features encode of the place of a point."""

    targets: Annotated[list[str], Field(max_length=MAX_ROWS)]
    features: Annotated[list[EncodedIn], Field(max_length=MAX_ROWS)]
    train_scenes: Count | None = None
    test_scenes: Count | None = None
    shortcut: bool | None = None
    conclusion: str | None = None

    @model_validator(mode="after")
    def _lengths(self) -> Encoded:
        if any(len(features.r2) != len(self.targets) for features in self.features):
            raise ValueError("r2 does not match targets")
        return self


class IgnoredLabel(Part):
    """A label that is not a class; None for negative ones and NaN."""

    label: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    points: Count


class Scene(Part):
    """The scene that is drawn."""

    name: str | None = None
    classes: list[str] | None = None


class DbbdEvaluation(Evaluation):
    """The report of pretraining on a split."""

    num_points: Count | None = None
    region_loss: Number | None = None
    point_loss: Number | None = None
    description_loss: Number | None = None
    alignment: Number | None = None
    uniformity: Number | None = None
    feature_std: Number | None = None
    effective_rank: Number | None = None
    contrast: Annotated[list[Contrast], Field(max_length=MAX_ROWS)] | None = None
    probe: Probe | None = None
    probe_missing: str | None = None
    label_efficiency: LabelEfficiency | None = None
    encoded: Encoded | None = None
    encoded_missing: str | None = None
    ignored_labels: list[IgnoredLabel] | None = None
    scene: Scene | None = None
