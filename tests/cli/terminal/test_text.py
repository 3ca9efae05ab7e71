"""Times, speeds, and rows of names and values are written as documented."""

from __future__ import annotations

import pytest

from dbbd_cli.cli.terminal import text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (text.duration(12.34), "12.3 s"),
        (text.duration(444), "7.4 min"),
        (text.duration(8280), "2.3 h"),
        (text.time_left(8.6), "0:09 left"),
        (text.time_left(7267), "2:01:07 left"),
        (text.per_second(15.84), "15.8"),
        (text.per_second(1234.4), "1,234"),
    ],
)
def test_times_and_speeds(written: str, expected: str) -> None:
    assert written == expected


def test_long_values_wrap_below_themselves_but_words_stay_whole() -> None:
    rows = {"Data": "three short words", "Run folder": "runs/20260131-120000-qr_cnn"}
    assert [name + value for name, value in text.pairs(rows, 26)] == [
        "  Data        three short",
        "              words",
        "  Run folder  runs/20260131-120000-qr_cnn",
    ]
