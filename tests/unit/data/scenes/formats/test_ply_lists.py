"""Rows with lists are found wherever they begin; invalid lengths and too many different ones are refused."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats.ply_lists import Field, ListError, end_of_rows, read_rows

BYTE, INT = np.dtype("u1"), np.dtype("<i4")
FIELDS = [Field(INT, BYTE), Field(INT, None), Field(np.dtype(">f8"), np.dtype(">i2")), Field(BYTE, None)]
LENGTHS: dict[str, Callable[[int], int]] = {
    "equal": lambda row: 3,
    "empty": lambda row: 0,
    "different": lambda row: row % 5,
    "in stretches": lambda row: row // 100 % 4,
    "mostly equal": lambda row: 2 + (row % 1000 == 999),
}


def packed(count: int, length: Callable[[int], int]) -> np.ndarray:
    rows = [
        struct.pack(f"<B{length(row)}ii", length(row), *range(length(row)), row)
        + struct.pack(f">h{length(row)}dB", length(row), *[0.5] * length(row), row % 256)
        for row in range(count)
    ]
    return np.frombuffer(b"".join(rows), np.uint8)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_numbers_between_lists_are_read(lengths: str) -> None:
    data = packed(3000, LENGTHS[lengths])
    (numbers, last), end = read_rows(data, 0, 3000, FIELDS)
    assert numbers.tolist() == list(range(3000))
    assert last.tolist() == [row % 256 for row in range(3000)]
    assert end == end_of_rows(data, 0, 3000, FIELDS) == len(data)


def test_rows_may_begin_anywhere_and_end_before_the_data() -> None:
    data = np.concatenate([np.full(7, 255, np.uint8), packed(200, LENGTHS["different"]), np.full(9, 255, np.uint8)])
    (numbers, _), end = read_rows(data, 7, 200, FIELDS)
    assert numbers.tolist() == list(range(200))
    assert end == len(data) - 9


def test_truncated_rows_are_refused() -> None:
    data = packed(50, LENGTHS["different"])
    for cut in (1, 10, len(data) // 2, len(data)):
        with pytest.raises(ListError, match="is truncated"):
            end_of_rows(data[: len(data) - cut], 0, 50, FIELDS)


def test_negative_lengths_are_refused() -> None:
    data = np.frombuffer(struct.pack("<i", -1) * 100, np.uint8)
    with pytest.raises(ListError, match="negative length"):
        end_of_rows(data, 0, 50, [Field(INT, INT)])


def test_only_different_lengths_count_toward_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbbd_cli.data.scenes.formats.ply_lists.MAX_STEPS", 5_000)
    assert end_of_rows(np.full(13 * 10**6, 3, np.uint8), 0, 10**6, [Field(INT, BYTE)]) == 13 * 10**6
    with pytest.raises(ListError, match="more than 5,000 lists of different lengths, too many to read"):
        end_of_rows(packed(6_000, LENGTHS["different"]), 0, 6_000, FIELDS)
