"""The spans of a URL are its parts in order, few enough to explain exactly, and encode to the URL itself."""

from __future__ import annotations

import pytest

from dbbd_cli.data.urls.encoding import MAX_BYTES, encode_url
from dbbd_cli.data.urls.spans import MAX_SPANS, encode_spans, spans_of

HOSTILE = [
    "",
    "/",
    "?",
    "#",
    "a",
    "...",
    "@@:::",
    "http://",
    "http://[::1]:80/x",
    "a.b@c.d:99x/..//?&&=;#?#",
    "例え.テスト/道?名=値",
    "x" * 2000,
    ".".join("ab" for _ in range(300)),
    "a.example/" + "/".join("p" * 20 for _ in range(100)) + "?a=1&b=2",
    "a\udcff.example/\x01\x1b",
]


def texts(url: str, limit: int = 99) -> list[tuple[str, str]]:
    return [(span.part, span.content.decode()) for span in spans_of(url, limit)]


def test_the_parts_of_a_url() -> None:
    assert texts("https://me@login.pay-pal.example:8443/a/b/c.php?x=1&y=2#top") == [
        ("scheme", "https://"),
        ("user", "me@"),
        ("host", "login."),
        ("host", "pay-pal."),
        ("host", "example"),
        ("port", ":8443"),
        ("path", "/a"),
        ("path", "/b"),
        ("path", "/c"),
        ("file ending", ".php"),
        ("query", "?x=1"),
        ("query", "&y=2"),
        ("fragment", "#top"),
    ]


def test_an_address_is_one_span() -> None:
    assert texts("192.0.2.7:80/x") == [("host", "192.0.2.7"), ("port", ":80"), ("path", "/x")]
    assert texts("[2001:db8::1]/x") == [("host", "[2001:db8::1]"), ("path", "/x")]


def test_short_neighbors_are_merged_within_host_and_path() -> None:
    assert texts("http://a.b.example.com/x/index.html?q=1", 5) == [
        ("scheme", "http://"),
        ("host", "a.b."),
        ("host", "example.com"),
        ("path", "/x/index.html"),
        ("query", "?q=1"),
    ]


@pytest.mark.parametrize("url", HOSTILE)
@pytest.mark.parametrize("limit", [3, MAX_SPANS])
def test_all_spans_together_are_the_url(url: str, limit: int) -> None:
    spans = spans_of(url, limit)
    assert len(spans) <= limit
    assert all(span.content for span in spans)
    whole = b"".join(span.content for span in spans)
    assert url.encode("utf-8", "replace").startswith(whole)
    if len(whole) == len(url.encode("utf-8", "replace")):
        assert encode_spans(spans, [True] * len(spans)) == encode_url(url)
    assert encode_spans(spans, [False] * len(spans)) == encode_url("")
    assert len(encode_spans(spans, [True] * len(spans))) <= MAX_BYTES


def test_a_span_keeps_its_area_when_others_are_absent() -> None:
    spans = spans_of("a.example?x=1&y=2")
    assert encode_spans(spans, [True, True, False, True]) == b"\1a.example\2&y=2\3"
