"""Divide a URL into the spans that an explanation is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dbbd_cli.data.urls.cleaning import split_url
from dbbd_cli.data.urls.encoding import MAX_BYTES, encode_parts

MAX_SPANS = 10
"""An exact explanation takes 2^spans evaluations."""
_NUM_MARKS = 3
_AUTHORITY = re.compile(rb"[^@]*@|\[[^\]]*\]|:\d*$|(?:\d{1,3}\.){3}\d{1,3}(?=:|$)|[^.@:]*\.|[^.@:]+|[@:]")
_PATH = re.compile(rb"/[^/]*|[^/]+")
_QUERY = re.compile(rb"[?&;]?[^&;]*")
_FILE_ENDING = re.compile(rb"(?<=[^/])\.[A-Za-z0-9]{1,5}$")


class Span(NamedTuple):
    """A run of bytes of a URL.

    Attributes:
        area: 0 scheme, 1 authority, 2 everything after it; spans of different areas are never merged.
        part: what it is, in a word or two.
        content: its bytes, UTF-8.
    """

    area: int
    part: str
    content: bytes


def spans_of(url: str, limit: int = MAX_SPANS) -> list[Span]:
    """Divide a URL into scheme, host labels, path segments, query parameters and file ending.

    Joined, they are the part of the URL that is used: its first `encoding.MAX_BYTES` bytes, marks included. If there
    are too many, two neighbors are merged, again and again: of the same kind if possible, and as short as possible.

    Args:
        url: the URL, cleaned.
        limit: maximum number of spans, at least 3.
    """
    scheme, authority, rest = (part.encode("utf-8", "replace") for part in split_url(url))
    left = MAX_BYTES - _NUM_MARKS
    scheme, left = scheme[:left], max(0, left - len(scheme))
    authority, left = authority[:left], max(0, left - len(authority))
    spans = [Span(0, "scheme", scheme)] if scheme else []
    spans += _of_authority(authority)
    spans += _of_rest(rest[:left])
    while len(spans) > limit:
        pairs = [place for place in range(len(spans) - 1) if spans[place].area == spans[place + 1].area]
        place = min(pairs, key=lambda place: _cost(*spans[place : place + 2]))
        one, other = spans[place : place + 2]
        names = dict.fromkeys([*one.part.split(", "), *other.part.split(", ")])
        if "path" in names:
            names.pop("file ending", None)
        spans[place : place + 2] = [Span(one.area, ", ".join(names), one.content + other.content)]
    return spans


def encode_spans(spans: Sequence[Span], present: Sequence[bool]) -> bytes:
    """Encode the URL that consists of some of the spans only, as `encoding.encode_url` encodes the whole one."""
    areas = [b"", b"", b""]
    for span, is_present in zip(spans, present, strict=True):
        if is_present:
            areas[span.area] += span.content
    return encode_parts(*areas)


def _cost(one: Span, other: Span) -> tuple[bool, int]:
    """The order in which neighbors are merged: first those of the same kind, the shortest first."""
    kinds = {"path" if span.part == "file ending" else span.part for span in (one, other)}
    return len(kinds) > 1, len(one.content) + len(other.content)


def _of_authority(authority: bytes) -> list[Span]:
    pieces = [piece for piece in _AUTHORITY.findall(authority) if piece]
    if b"".join(pieces) != authority:  # a host that nothing here describes
        return [Span(1, "host", authority)]
    return [
        Span(1, "user" if piece.endswith(b"@") else "port" if piece.startswith(b":") else "host", piece)
        for piece in pieces
    ]


def _of_rest(rest: bytes) -> list[Span]:
    before, number_sign, fragment = rest.partition(b"#")
    path, question, query = before.partition(b"?")
    spans = [Span(2, "path", piece) for piece in _PATH.findall(path) if piece]
    if spans and (ending := _FILE_ENDING.search(spans[-1].content)):
        stem = spans.pop().content[: ending.start()]
        spans += [Span(2, "path", stem), Span(2, "file ending", ending[0])]
    spans += [Span(2, "query", piece) for piece in _QUERY.findall(question + query) if piece]
    return [*spans, Span(2, "fragment", number_sign + fragment)] if number_sign else spans
