"""The values of a configuration that is being read, where each was set, and what is wrong with them."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from typing import Any

from dbbd_cli.core.text import printable

Key = tuple[str | int, ...]
Place = int | str
"""A line of the source, or the origin of an override, or the source as a whole (its name)."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


@dataclass(frozen=True)
class Problem:
    """One thing to mend.

    Attributes:
        place: where it stands.
        what: the key and what was found, such as "training.epochs is 0".
        advice: what is expected, or what to do.
    """

    place: Place
    what: str
    advice: str

    def block(self, source: str) -> str:
        """Two lines: what and where, and below it, indented, what to do."""
        where = f"{source}:{self.place}" if isinstance(self.place, int) else self.place
        return f"{where}: {self.what}\n    {self.advice}"


@dataclass
class Document:
    """The values of a source, and what is known about them so far.

    Attributes:
        name: what the source is called in errors.
        values: the top level; anything but a mapping is an error.
        places: where each key was set.
        problems: what was found so far.
        spoiled: keys whose value could not be read; nothing more is to be said about them.
    """

    name: str
    values: Any
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spoiled: set[Key] = field(default_factory=set)

    def place(self, key: Key) -> Place:
        """Where `key` was set; of an absent key, its section; of the whole, the source."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, self.name)

    def is_spoiled(self, key: Key) -> bool:
        """Whether `key`, or a section around it, could not be read."""
        return any(key[:length] in self.spoiled for length in range(len(key) + 1))


def dotted(key: Key) -> str:
    """A key as it is written on the command line, "training.epochs"."""
    return ".".join(brief(str(part)) for part in key)


def shown(value: object) -> str:
    """A value as it reads in YAML, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _REPR.repr(value)


def brief(text: str, limit: int = 60) -> str:
    """The first `limit` characters of `text`, which may come from anywhere, safe to print."""
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")
