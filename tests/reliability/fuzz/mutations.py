"""Small mutations of valid inputs, selected by integers from hypothesis or from a random generator."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from typing import Any

from reader import Reader

Step = tuple[int, int, int]
"""Kind of mutation, position and content; each from 0 to `MOST`."""
MOST = 2**16 - 1

TEXT_NUMBERS = (
    *("0", "-0", "-1", "1", "2", "255", "65535", "2147483647", "2147483648", "4294967296", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551616", "1000000000000", "-9223372036854775809", "1e400", "-1e400", "nan"),
    *("inf", "-inf", "NaN", "Infinity", "1e-400", "0.5", "007", "1_000", "\u0663", "1" * 400, "1" * 5000, "", "true"),
)
BYTE_NUMBERS = tuple(
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, values in {
        "b": (0, -1, 1, 127, -128),
        "h": (0, -1, 1, 2**15 - 1, -(2**15)),
        "i": (0, -1, 1, 2**31 - 1, -(2**31), 10**9),
        "q": (0, -1, 1, 2**31, 2**32, 2**63 - 1, -(2**63), 10**12),
        "f": (float("nan"), float("inf"), -float("inf"), 1e38, 1e-45),
        "d": (float("nan"), float("inf"), -float("inf"), 1e308, 5e-324),
    }.items()
    for value in values
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**12, 10**30, 0.5, 1e308, float("nan"), float("inf")),
    *("", "a", "../x", "/", "\0", "\n", "\x1b[31m", "\u2028", "\ud800", "é", "x" * 300, "train", "1", "-1", "1e400"),
    *([], {}, [[]], [0], [None], {"": None}, {"a": {}}, [1, "a"]),
)


def mutated(reader: Reader, data: bytes, steps: Sequence[Step], others: Sequence[bytes]) -> bytes:
    """Return the data after a few mutations.

    Args:
        reader: the reader of the data.
        data: a valid input.
        steps: the mutations.
        others: other inputs, pieces of which are spliced in.
    """
    for kind, place, value in steps:
        is_json = reader.structured or (kind % 2 and data[:1] in (b"{", b"["))
        damage = _structure if is_json else _DAMAGES[kind // 2 % len(_DAMAGES)]
        data = damage(data, place, value, others)
    return reader.seal(data) if reader.seal and sum(map(sum, steps)) % 2 else data


def _at(data: bytes, place: int) -> int:
    return place % max(len(data), 1)


def _flip(data: bytes, place: int, value: int, _: Sequence[bytes]) -> bytes:
    at = _at(data, place)
    return data[:at] + bytes(byte ^ (1 << value % 8) for byte in data[at : at + 1]) + data[at + 1 :]


def _set_byte(data: bytes, place: int, value: int, _: Sequence[bytes]) -> bytes:
    at = _at(data, place)
    return data[:at] + bytes([value % 256]) + data[at + 1 :]


def _truncate(data: bytes, place: int, _value: int, _: Sequence[bytes]) -> bytes:
    return data[: _at(data, place)]


def _delete(data: bytes, place: int, value: int, _: Sequence[bytes]) -> bytes:
    at = _at(data, place)
    return data[:at] + data[at + 1 + value % 16 :]


def _insert(data: bytes, place: int, value: int, _: Sequence[bytes]) -> bytes:
    at = _at(data, place)
    return data[:at] + value.to_bytes(2, "little")[: 1 + value % 2] + data[at:]


def _repeat(data: bytes, place: int, value: int, _: Sequence[bytes]) -> bytes:
    at = _at(data, place)
    piece = data[at : at + 1 + value % 32]
    return data[:at] + piece * (2 + (value >> 8) % 60) + data[at + len(piece) :]


def _splice(data: bytes, place: int, value: int, others: Sequence[bytes]) -> bytes:
    other = others[value % len(others)] if others else data
    start = _at(other, value >> 3)
    at = _at(data, place)
    return data[:at] + other[start : start + 1 + value % 64] + data[at + (value >> 5) % 64 :]


def _text_number(data: bytes, place: int, value: int, _: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return _set_byte(data, place, value, _)
    number = found[place % len(found)]
    return data[: number.start()] + TEXT_NUMBERS[value % len(TEXT_NUMBERS)].encode() + data[number.end() :]


def _byte_number(data: bytes, place: int, value: int, _: Sequence[bytes]) -> bytes:
    number = BYTE_NUMBERS[value % len(BYTE_NUMBERS)]
    at = _at(data, place)
    return data[:at] + number + data[at + len(number) :]


def _structure(data: bytes, place: int, value: int, others: Sequence[bytes]) -> bytes:
    """Change a value in a JSON text, or in a line of several; other data is mutated differently."""
    lines = data.split(b"\n")
    number = place % len(lines)
    for part, rest in ((data, None), (lines[number], lines)):
        try:
            changed = json.dumps(_changed(json.loads(part), place // 7, value)).encode()
        except (ValueError, RecursionError):
            continue
        if rest is None:
            return changed
        return b"\n".join([*rest[:number], changed, *rest[number + 1 :]])
    return _flip(data, place, value, others)


def _changed(root: Any, place: int, value: int) -> Any:
    """Return the value with one of its nested values replaced, removed, repeated or nested."""
    slots: list[tuple[Any, Any]] = [([root], 0)]
    holder = slots[0][0]
    for container, key in slots:  # grows during the iteration
        inner = container[key]
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
        slots += [(inner, key) for key in keys]
    container, key = slots[place % len(slots)]
    action, choice = value % 8, value // 8
    if action == 0 and container is not holder:
        del container[key]
    elif action == 1:
        other, at = slots[choice % len(slots)]
        container[key] = json.loads(json.dumps(other[at]))
    elif action == 2 and isinstance(container, list):
        container[key:key] = json.loads(json.dumps([container[key]])) * (1 + choice % 40)
    elif action == 3 and choice % 5 == 0:
        for _ in range(1 << choice % 10):
            container[key] = [container[key]]
    else:
        container[key] = _VALUES[choice % len(_VALUES)]
    return holder[0]


_DAMAGES = (_flip, _set_byte, _truncate, _delete, _insert, _repeat, _splice, _text_number, _byte_number)
