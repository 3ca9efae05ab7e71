"""What `evaluation.json` holds for a classifier."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from dbbd_cli.report.evaluation import MAX_ROWS, Count, Evaluation, Fraction, Number, Part, same_length


class Scores(Part, extra="forbid"):
    """Scores of one class, or their mean."""

    precision: Fraction | None = None
    recall: Fraction | None = None
    f1: Fraction | None = None


class ClassScores(Scores):
    """Scores of one class and the number of its samples."""

    name: str = Field(alias="class")
    support: Count


class RocCurve(Part):
    """A ROC curve; `auc` is None for a class without samples."""

    name: str = Field(alias="class")
    auc: Fraction | None
    fpr: list[Fraction] = Field(default_factory=list)
    tpr: list[Fraction] = Field(default_factory=list)

    @model_validator(mode="after")
    def _lengths(self) -> RocCurve:
        if self.auc is not None:
            same_length(self.fpr, self.tpr)
        return self


class PrecisionRecallCurve(Part):
    """A precision-recall curve; `average_precision` is None for a class without samples."""

    name: str = Field(alias="class")
    average_precision: Fraction | None
    recall: list[Fraction] = Field(default_factory=list)
    precision: list[Fraction] = Field(default_factory=list)

    @model_validator(mode="after")
    def _lengths(self) -> PrecisionRecallCurve:
        if self.average_precision is not None:
            same_length(self.recall, self.precision)
        return self


class Reliability(Part):
    """A reliability diagram: N bins, N + 1 edges; the means of an empty bin are None."""

    bin_edges: list[Fraction]
    confidence: list[Fraction | None]
    accuracy: list[Fraction | None]
    count: list[Count]

    @model_validator(mode="after")
    def _lengths(self) -> Reliability:
        same_length(self.bin_edges[1:], self.confidence, self.accuracy, self.count)
        return self


class Curves(Part):
    """Everything that is drawn as a curve."""

    roc: list[RocCurve] | None = None
    precision_recall: list[PrecisionRecallCurve] | None = None
    reliability: Reliability | None = None


def _distinct_rates(recalls: dict[str, Any]) -> dict[str, Any]:
    try:
        rates = {float(rate) for rate in recalls if 0 <= float(rate) <= 1}
    except ValueError:
        rates = set()
    if len(rates) != len(recalls):  # "0.01" and "1e-2" would be one rate with two recalls
        raise ValueError("the keys are not distinct rates from 0 to 1")
    return recalls


def _ascending(bounds: list[float]) -> list[float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the lower bound exceeds the upper one")
    return bounds


Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
"""Lower and upper bound of a share."""
Rates = AfterValidator(_distinct_rates)


class Intervals(Part):
    """Bootstrap intervals of the metrics, at confidence `level`; None for those that have none."""

    level: Fraction | None = None
    resamples: Count | None = None
    groups: Count | None = None
    """What was resampled: this many of `group`."""
    group: str | None = None
    accuracy: Interval | None = None
    f1: Interval | None = None
    """Of the mean over the classes."""
    roc_auc: Interval | None = None
    average_precision: Interval | None = None
    recall_at_fpr: Annotated[dict[str, Interval | None], Rates] | None = None
    expected_calibration_error: Interval | None = None


class Estimate(Part):
    """A share and its interval."""

    value: Fraction | None = None
    interval: Interval | None = None


class Achieved(Part):
    """The false-positive rate of the threshold on the validation split."""

    rate: Fraction | None = None
    low: Fraction | None = None
    high: Fraction | None = None


class AtThreshold(Part):
    """What the threshold is worth on the reported split."""

    false_positive_rate: Estimate | None = None
    recall: Estimate | None = None


class BeforeCalibration(Part):
    """Accuracy and reliability on the reported split before calibration."""

    accuracy: Fraction | None = None
    expected_calibration_error: Fraction | None = None
    interval: Interval | None = None
    reliability: Reliability | None = None


class CalibrationReport(Part):
    """Temperature, biases and threshold, fitted on the split `split`, and what they are worth on the reported one."""

    split: str | None = None
    num_samples: Count | None = None
    temperature: Number | None = None
    bias: list[Number] | None = None
    """One number per class."""
    positive_class: str | None = None
    false_positive_rate: Fraction | None = None
    threshold: Number | None = None
    achieved: Achieved | None = None
    loss: Number | None = None
    """Of the calibrated probabilities on the reported split."""
    before: BeforeCalibration | None = None
    at_threshold: AtThreshold | None = None


_Lead = Annotated[float, Field(ge=-1.0, le=1.0)]


class Baseline(Part):
    """A simple classifier on the same split, and how much higher the accuracy of the network is.

    `is_shortcut`: whether one trivial property classifies far better than the most frequent class.
    """

    name: str
    accuracy: Fraction
    accuracy_interval: Interval | None = None
    lead: _Lead | None = None
    lead_interval: Annotated[list[_Lead], Field(min_length=2, max_length=2), AfterValidator(_ascending)] | None = None
    roc_auc: Fraction | None = None
    roc_auc_interval: Interval | None = None
    is_shortcut: bool = False


class ConfidentError(Part):
    """A sample that was classified wrongly, and the calibrated probability of the wrong class."""

    sample: str
    name: str = Field(alias="class")
    predicted: str
    probability: Fraction


class SharedWithTraining(Part):
    """Samples of another data set that the training split has too, and samples with a host from it."""

    samples: Count
    hosts: Count | None = None


class Share(Part):
    """A share with its 95% interval."""

    value: Fraction
    low: Fraction
    high: Fraction


class CorruptionRow(Part):
    """Results on pictures with one corruption of one strength; without a strength, on pictures as they are."""

    corruption: str
    strength: Number | None = None
    unit: str | None = None
    read: Share | None = None
    read_right: Share | None = None
    accuracy: Share | None = None
    verdict: Share | None = None


class Corruptions(Part):
    """Results on corrupted pictures."""

    num_samples: Count
    seconds: Number | None = None
    rows: Annotated[list[CorruptionRow], Field(max_length=MAX_ROWS)]


class ClassificationEvaluation(Evaluation):
    """The report of a classifier on a split."""

    classes: list[str] | None = None
    positive_class: str | None = None
    accuracy: Fraction | None = None
    roc_auc: Fraction | None = None
    average_precision: Fraction | None = None
    expected_calibration_error: Fraction | None = None
    per_class: list[ClassScores] | None = None
    macro: Scores | None = None
    weighted: Scores | None = None
    recall_at_fpr: Annotated[dict[str, Fraction | None], Rates] | None = None
    intervals: Intervals | None = None
    calibration: CalibrationReport | None = None
    baselines: Annotated[list[Baseline], Field(max_length=MAX_ROWS)] | None = None
    errors: Annotated[list[ConfidentError], Field(max_length=MAX_ROWS)] | None = None
    shared_with_training: SharedWithTraining | None = None
    confusion_matrix: list[list[Count]] | None = None
    curves: Curves | None = None
    corruptions: Corruptions | None = None

    @model_validator(mode="after")
    def _square(self) -> ClassificationEvaluation:
        matrix, num_classes = self.confusion_matrix, len(self.classes or [])
        if matrix and {len(matrix), *map(len, matrix)} != {num_classes}:
            raise ValueError("confusion_matrix does not match classes")
        return self
