"""The page of predictions escapes everything, has no links and no scripts, and reads without color."""

from __future__ import annotations

from html.parser import HTMLParser

from dbbd_cli.report.prediction import Explanation, Prediction, SpanContribution
from dbbd_cli.report.prediction_page import PredictionPage

EVIL = "http://a.example/<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page() -> None:
    spans = (SpanContribution(0, 7, "scheme", "http://", -0.5), SpanContribution(7, 60, EVIL, EVIL, 1.25))
    result = Prediction(
        EVIL,
        "judged",
        note=EVIL,
        text=EVIL,
        probabilities={"good": 0.25, EVIL: 0.75},
        positive_class=EVIL,
        threshold=0.5,
        explanation=Explanation(EVIL, -0.1, 0.65, spans),
    )
    page = PredictionPage()
    parts = [
        page.head(EVIL, explained=True),
        page.row(result),
        page.row(Prediction("x", "skipped", note="empty")),
        page.tail(EVIL),
    ]
    tags = Tags()
    tags.feed("".join(parts))
    assert not {"script", "img", "a", "link"} & set(tags.tags)
    assert tags.tags.count("tr") == 3
    assert "\u202e" not in tags.text
    assert "default-src 'none'" in parts[0]
    for text in ("-0.50", "+1.25", "-0.10", "+0.65", "75.00%", "skipped", "empty"):
        assert text in tags.text
    assert "".join(parts).startswith("<!doctype html>")
