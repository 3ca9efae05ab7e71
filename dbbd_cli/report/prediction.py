"""The results of `predict`: plain values, and their form in JSON and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

CSV_COLUMNS = ("input", "status", "class", "probability", "verdict", "text", "judged", "note")
FILE_CSV_COLUMNS = ("input", "status", "points", "seconds", "files", "note")


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities, and probabilities a verdict.

    Attributes:
        temperature: what logits are divided by.
        bias: what is then added to the logit of each class; None: nothing.
        threshold: probability of the positive class from which on a sample is called positive (two classes).
        positive_class: the class that the threshold was chosen for; None if none was chosen.
        fitted: whether these were fitted on validation data.
    """

    temperature: float = 1.0
    bias: Sequence[float] | None = None
    threshold: float = 0.5
    positive_class: str | None = None
    fitted: bool = False


@dataclass(frozen=True)
class SpanContribution:
    """What a part of a text contributes to the log-odds of a class.

    Attributes:
        start: position of its first byte in the UTF-8 text.
        end: position after its last byte.
        part: what it is, such as host.
        text: its text.
        contribution: its Shapley value, in units of log-odds (nats); positive: speaks for the class.
    """

    start: int
    end: int
    part: str
    text: str
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """Which parts of a text moved the log-odds of a class: `empty` plus all contributions is `total`.

    Attributes:
        target: the class.
        empty: log-odds of the class for an empty text.
        total: log-odds of the class for the whole text.
        spans: the parts of the text, in order.
    """

    target: str
    empty: float
    total: float
    spans: tuple[SpanContribution, ...]


@dataclass(frozen=True)
class Prediction:
    """The result for one input.

    Attributes:
        input: the input as given: a path, a URL, or the place of a line.
        status: judged; not_judged: it was read, but contains nothing that the run can judge; skipped: it is unreadable.
        note: why it was not judged or was skipped; a remark if it was judged.
        text: the text that was read, if it is not the input itself, such as the content of a QR code.
        judged: the text as it was judged, if cleaning changed it.
        probabilities: calibrated probability of each class.
        positive_class: the class that the threshold is about, if there are two.
        threshold: see `Calibration`; None if there are more than two classes.
        calibrated: whether temperature and threshold were fitted on validation data.
        explanation: what moved the verdict, if requested.
    """

    csv_columns: ClassVar[tuple[str, ...]] = CSV_COLUMNS

    input: str
    status: Literal["judged", "not_judged", "skipped"]
    note: str = ""
    text: str | None = None
    judged: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    positive_class: str | None = None
    threshold: float | None = None
    calibrated: bool = False
    explanation: Explanation | None = None

    @property
    def predicted(self) -> str | None:
        """The most probable class, the first of equals."""
        return max(self.probabilities, key=self.probabilities.__getitem__) if self.probabilities else None

    @property
    def probability(self) -> float | None:
        """The probability of the positive class if there are two classes, otherwise of the most probable one."""
        name = self.positive_class or self.predicted
        return self.probabilities[name] if self.probabilities and name else None

    @property
    def verdict(self) -> str | None:
        """With two classes, the positive one if its probability reaches the threshold; else the most probable one."""
        if self.positive_class is None or self.threshold is None or not self.probabilities:
            return self.predicted
        if self.probabilities[self.positive_class] >= self.threshold:
            return self.positive_class
        return next(name for name in self.probabilities if name != self.positive_class)

    def to_plain(self) -> dict[str, Any]:
        """The result as one JSON object; a field without a value is null."""
        explained = self.explanation
        return {
            "input": self.input,
            "status": self.status,
            "note": self.note or None,
            "text": self.text,
            "judged": self.judged,
            "class": self.predicted,
            "probability": self.probability,
            "verdict": self.verdict,
            "probabilities": dict(self.probabilities) or None,
            "positive_class": self.positive_class,
            "threshold": self.threshold,
            "calibrated": self.calibrated,
            "explanation": explained
            and {
                "class": explained.target,
                "empty": explained.empty,
                "total": explained.total,
                "spans": [vars(span) for span in explained.spans],
            },
        }

    def to_row(self) -> list[str]:
        """The result as a row of `csv_columns`."""
        probability = "" if self.probability is None else f"{self.probability:.6f}"
        verdict = [self.predicted or "", probability, self.verdict or ""]
        return [self.input, self.status, *verdict, self.text or "", self.judged or "", self.note]


@dataclass(frozen=True)
class FilePrediction:
    """The files that were written for one input.

    Attributes:
        input: the path of the input.
        status: written; skipped: it is unreadable.
        note: why it was skipped; a remark if it was not.
        num_points: points of the scene.
        seconds: time that it took, from reading to writing.
        files: what was written: files, and folders of arrays.
    """

    csv_columns: ClassVar[tuple[str, ...]] = FILE_CSV_COLUMNS

    input: str
    status: Literal["written", "skipped"]
    note: str = ""
    num_points: int | None = None
    seconds: float | None = None
    files: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """The result as one JSON object; a field without a value is null."""
        return {
            "input": self.input,
            "status": self.status,
            "note": self.note or None,
            "points": self.num_points,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "files": list(self.files),
        }

    def to_row(self) -> list[str]:
        """The result as a row of `csv_columns`; files are separated by semicolons."""
        points = "" if self.num_points is None else str(self.num_points)
        seconds = "" if self.seconds is None else f"{self.seconds:.3f}"
        return [self.input, self.status, points, seconds, ";".join(self.files), self.note]


Result = Prediction | FilePrediction
"""What `predict` returns for an input."""
