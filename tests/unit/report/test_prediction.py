"""Class, verdict and probability of a result follow from its probabilities and the threshold."""

from __future__ import annotations

import json

import pytest

from dbbd_cli.report.prediction import CSV_COLUMNS, Explanation, Prediction, SpanContribution


@pytest.mark.parametrize(("threshold", "verdict"), [(0.5, "good"), (0.25, "bad"), (0.2, "bad"), (0.0, "bad")])
def test_two_classes(threshold: float, verdict: str) -> None:
    probabilities = {"bad": 0.25, "good": 0.75}
    result = Prediction("x", "judged", probabilities=probabilities, positive_class="bad", threshold=threshold)
    assert (result.predicted, result.probability, result.verdict) == ("good", 0.25, verdict)


def test_more_classes() -> None:
    result = Prediction("x", "judged", probabilities={"a": 0.2, "b": 0.5, "c": 0.3})
    assert (result.predicted, result.probability, result.verdict) == ("b", 0.5, "b")


def test_a_result_without_a_verdict() -> None:
    result = Prediction("x", "skipped", note="empty")
    assert (result.predicted, result.probability, result.verdict) == (None, None, None)
    assert result.to_row() == ["x", "skipped", "", "", "", "", "", "empty"]


def test_plain_values() -> None:
    explanation = Explanation("bad", -1.0, 0.5, (SpanContribution(0, 3, "host", "x.y", 1.5),))
    result = Prediction("x", "judged", probabilities={"bad": 0.6, "good": 0.4}, explanation=explanation)
    plain = json.loads(json.dumps(result.to_plain()))
    assert plain["class"] == "bad"
    assert plain["explanation"]["spans"] == [{"start": 0, "end": 3, "part": "host", "text": "x.y", "contribution": 1.5}]
    assert len(result.to_row()) == len(CSV_COLUMNS)
