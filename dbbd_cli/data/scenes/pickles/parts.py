"""Elements of a pickle besides plain values: references to code, incomplete objects, and keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_LARGEST_KEY = 1 << 63
_MAX_NUMBERS = 20_000
_KEY_TYPES = (str, int, float, bytes, type(None))


class RefusedPickleError(ValueError):
    """A pickle contains more than plain values; the message names it."""


@dataclass(frozen=True, eq=False)
class StandIn:
    """The replacement of a global of the file: `call` instead of the code of that name."""

    name: str
    call: Callable[..., object]


@dataclass(eq=False)
class Unbuilt:
    """An object that a later opcode (BUILD) completes."""

    complete: Callable[[object], object]
    memo_keys: list[int] = field(default_factory=list)


def checked_keys(keys: list[Any], held: int = 0) -> list[Any]:
    """The keys of a dict or items of a set with `held` others; raises unless they are texts or numbers."""
    # Hashing deeply nested tuples overflows the stack of the process.
    if not all(isinstance(key, _KEY_TYPES) for key in keys):
        raise ValueError("has a key that is neither text nor a number")
    # Any number of larger integers share a hash, and each is compared with all before; of these, eight do.
    if not all(-_LARGEST_KEY <= key < _LARGEST_KEY for key in keys if type(key) is int):
        raise ValueError("has a key that is too large a number")
    # Numbers can be chosen to collide in the table. Hashes of texts are unpredictable.
    if held + len(keys) > _MAX_NUMBERS and any(isinstance(key, (int, float)) for key in keys):
        raise ValueError(f"has more than {_MAX_NUMBERS:,} keys, numbers among them")
    return keys
