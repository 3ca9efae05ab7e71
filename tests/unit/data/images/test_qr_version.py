"""The version of a code is known without making it."""

from __future__ import annotations

import pytest
import segno

from dbbd_cli.data.images.properties import rendered_properties
from dbbd_cli.data.images.qr_version import qr_version


@pytest.mark.parametrize(
    "text", ["a.example", "https://a.example/" + "x" * 200, "HTTP://A.EXAMPLE/X1", "0123456789" * 9]
)
def test_the_version_of_a_code_is_that_of_segno(text: str) -> None:
    for length in range(1, len(text) + 1, 7):
        part = text[:length]
        assert qr_version(part) == segno.make(part, error="m", boost_error=False, micro=False).version
    assert rendered_properties([text])[-1].values[0] == qr_version(text)


def test_versions_at_their_limits() -> None:
    for count in (14, 15, 180, 181, 213, 1059, 1060, 2331):
        code = segno.make("x" * count, error="m", boost_error=False, micro=False, mode="byte", mask=0)
        assert qr_version("x" * count) == code.version
    assert qr_version("x" * 2332) == 41
    umlauts = segno.make("ü" * 100, error="m", boost_error=False, micro=False, encoding="utf-8", mode="byte", mask=0)
    assert qr_version("ü" * 100) == umlauts.version
