"""An encoded URL holds its parts between marks that the network knows, and nothing else below a space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbbd_cli.data.urls.cleaning import split_url
from dbbd_cli.data.urls.encoding import AFTER_HOST, BEFORE_HOST, END, MAX_BYTES, encode_url, encode_urls
from dbbd_cli.model.urls import features


@pytest.mark.parametrize(
    ("url", "encoded"),
    [
        ("https://www.a.example/b?c=d#e", b"https://\1www.a.example\2/b?c=d#e\3"),
        ("a.example", b"\1a.example\2\3"),
        ("a.example?q", b"\1a.example\2?q\3"),
        ("", b"\1\2\3"),
        ("bücher.example/ß", b"\1b\xc3\xbccher.example\2/\xc3\x9f\3"),
        ("a.example/\x00\x01\x1f", b"\1a.example\2/   \3"),
        ("a.example/\ud800", b"\1a.example\2/?\3"),
    ],
)
def test_the_parts_stand_between_marks(url: str, encoded: bytes) -> None:
    assert encode_url(url) == encoded


@given(st.text(max_size=700))
@settings(deadline=None)
def test_every_text_can_be_encoded(url: str) -> None:
    encoded = encode_url(url)
    assert len(encoded) <= MAX_BYTES
    assert encoded[-1] == END
    marks = [byte for byte in encoded if byte <= END]
    assert marks in ([BEFORE_HOST, AFTER_HOST, END], [BEFORE_HOST, END], [END])
    assert min(set(encoded) - {*marks}, default=32) >= 32
    if len(encoded) < MAX_BYTES:
        scheme = encoded.partition(b"\1")[0]
        assert marks == [BEFORE_HOST, AFTER_HOST, END]
        assert len(scheme) == len(split_url(url).scheme.encode("utf-8", "replace"))


def test_a_batch_is_padded_with_zeros_to_its_longest_url() -> None:
    codes = encode_urls(["a.example/x", "b.example"])
    assert codes.dtype == np.uint8
    assert [bytes(row) for row in codes] == [encode_url("a.example/x"), encode_url("b.example") + b"\0\0"]
    assert encode_urls([]).shape[0] == 0


def test_the_network_knows_the_marks() -> None:
    assert (features.BEFORE_HOST, features.AFTER_HOST, features.END) == (BEFORE_HOST, AFTER_HOST, END)
