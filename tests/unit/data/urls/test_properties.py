"""Properties and relations of URLs are those that the text shows."""

from __future__ import annotations

import pytest

from dbbd_cli.data.urls.properties import url_properties, url_relations


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTPS://www.a.example.com/x?y=1", ["https", "yes", 31, "yes", "yes", 3, "com"]),
        ("a.example", ["none", "no", 9, "none", "no", 1, "example"]),
        ("http://user@192.0.2.1:80/", ["http", "no", 25, "only /", "no", 3, "IP address"]),
        ("localhost?q", ["none", "no", 11, "none", "yes", 0, "none"]),
        ("http://[2001:db8::1]/a", ["http", "no", 22, "yes", "no", 0, "IP address"]),
        ("", ["none", "no", 0, "none", "no", 0, "none"]),
    ],
)
def test_properties(url: str, expected: list[str | int]) -> None:
    found = url_properties([url])
    names = ["scheme", "www.", "length", "path", "query", "number of dots", "top-level domain"]
    assert [part.name for part in found] == names
    assert [part.values[0] for part in found] == expected


def test_a_huge_url_does_not_fill_the_memory() -> None:
    found = url_properties([f"a.{'x' * 10**6}", f"{'y' * 10**6}://b.example"])
    assert max(part.values.nbytes for part in found) < 1000


def test_relations() -> None:
    urls = ["a.example/x1?s=7", "A.example/X22?s=8", "http://www.a.example/x1#top", "b.example/x1", "?"]
    text, path, host = (list(relation.keys) for relation in url_relations(urls))
    assert text[0] == text[1]
    assert len(set(text)) == 4
    assert path[0] == path[2]
    assert len(set(path)) == 4
    assert host[:4] == ["a.example", "a.example", "a.example", "b.example"]
    assert host[4] is None
