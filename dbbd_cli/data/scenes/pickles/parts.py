"""What a pickle consists of beside plain values: names of code, objects that are not complete yet, and keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_LARGEST_KEY = 1 << 63
_MOST_NUMBERS = 20_000
_KEY_TYPES = (str, int, float, bytes, type(None))


class RefusedPickleError(ValueError):
    """A pickle holds something else than plain values; the message names it."""


@dataclass(frozen=True, eq=False)
class StandIn:
    """What a global of the file means here: `call` is used instead of the code of that name."""

    name: str
    call: Callable[..., object]


@dataclass(eq=False)
class Unbuilt:
    """What a pickle announces with one opcode and completes with another (BUILD)."""

    complete: Callable[[object], object]
    memo_keys: list[int] = field(default_factory=list)


def checked_keys(keys: list[Any], held: int = 0) -> list[Any]:
    """The keys of a dict or items of a set, if they are text or numbers; `held` are there already."""
    # Hashing deeply nested tuples would overflow the stack of the process.
    if not all(isinstance(key, _KEY_TYPES) for key in keys):
        raise ValueError("has a key that is neither text nor a number")
    # Any number of larger ones have the same hash, and each is compared with all before it; of these, eight have.
    if not all(-_LARGEST_KEY <= key < _LARGEST_KEY for key in keys if type(key) is int):
        raise ValueError("has a number as a key that is too large for one")
    # Numbers can be chosen so that each meets all before it in the table. Of text nobody knows the hash.
    if held + len(keys) > _MOST_NUMBERS and any(isinstance(key, (int, float)) for key in keys):
        raise ValueError(f"has more than {_MOST_NUMBERS:,} keys, numbers among them")
    return keys
