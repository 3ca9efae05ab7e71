"""Read YAML into plain values, and remember the line of every key.

Only mappings, lists and scalars: anchors, aliases and tags are errors, so that a text produces nothing but `dict`,
`list`, `str`, `int`, `float`, `bool` and `None`, and nothing larger than itself. The parser's events are used rather
than the nodes of `yaml.compose`, which resolves aliases silently and takes 2.6 s instead of 0.15 s for a megabyte of
keys.

Plain scalars follow the core schema of YAML 1.2, without its octal and hexadecimal numbers: `1e-4` is a number, while
`no`, `on`, `1:30`, `2024-01-31` and `007` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NoReturn

import yaml

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.text import printable

Key = tuple[str | int, ...]
Place = int | str
"""A line of the source, the origin of an override, or the name of the source as a whole."""

MAX_DEPTH = 50
MAX_VALUES = 10_000

# Only its events are used, so that limits are checked before anything is built, and its constructors never run.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS = {"": None, "~": None} | {
    spelling: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelling in (word, word.capitalize(), word.upper())
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,299})")  # of bounded length, as int() takes quadratic time
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
# The parser takes quadratic time for %TAG directives, and its errors for control characters have no line.
_NOT_SUPPORTED = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]|[\ud800-\udfff\ufffe\uffff]|(?<![^\r\n\x85\u2028\u2029])%TAG"
)
_HINTS = {
    "found character that cannot start any token": "indent with spaces, not tabs; quote text that starts with @ or `",
    "mapping values are not allowed in this context": (
        "is a ':' missing in the line before, or the indentation off? quote text that has ': ' in it"
    ),
    "could not find expected ':'": "each line reads 'key: value'",
    "did not find expected key": "do the keys of one section start in the same column?",
    "did not find expected alphabetic or numeric character": "quote text that starts with * or &",
}


@dataclass(frozen=True)
class Problem:
    """One thing to fix.

    Attributes:
        place: where it is.
        what: the key and the value found, such as "training.epochs is 0".
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
    """The values of a source, and where each of them was set.

    Attributes:
        name: what errors call the source.
        values: the top level; anything but a mapping is an error.
        places: where each key was set.
        problems: those found so far.
    """

    name: str
    values: Any
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, key: Key) -> Place:
        """Where `key` was set; for an absent key, where its section was; otherwise the source as a whole."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, self.name)


def dotted(key: Key) -> str:
    """A key as written on the command line, "training.epochs"."""
    return ".".join(brief(str(part)) for part in key)


def brief(text: str, limit: int = 60) -> str:
    """The first `limit` characters of untrusted text, safe to print."""
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")


def plain_scalar(text: str) -> Any:
    """The value of a scalar without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def read_yaml(text: str, name: str, *, inline: bool = False) -> Document:
    """Read one YAML document, from a file or, `inline`, from the command line, where lines have no number.

    Raises:
        ConfigError: the text is not YAML, has anchors, aliases or tags, is nested too deeply, or holds too many values
            or more than one document.
    """
    return _Reader(text, name, inline).read()


class _Reader:
    """Goes through the parser's events once."""

    def __init__(self, text: str, name: str, inline: bool) -> None:
        self._text = text
        self._inline = inline
        self._document = Document(name, None)
        self._num_values = 0
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))

    def read(self) -> Document:
        if found := _NOT_SUPPORTED.search(self._text):
            before = _LINE_BREAK.split(self._text[: found.start()])
            what = "%TAG is not supported" if found[0] == "%TAG" else "not valid YAML: a control character"
            self._fail(what, len(before) - 1, len(before[-1]))
        try:
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if self._num_values:
                        self._fail_at(event, "a second document starts here")
                    self._document.values = self._value(next(self._events), ())
        except yaml.MarkedYAMLError as error:
            mark, start = error.problem_mark or error.context_mark, error.context_mark
            assert mark is not None, "the parser marks its errors"
            what = f"not valid YAML: {error.problem or error.context}"
            if error.context and start and start.line != mark.line:
                what += f" ({error.context} from line {start.line + 1})"
            self._fail(what, mark.line, mark.column, _HINTS.get(error.problem or "", ""))
        return self._document

    def _value(self, event: Any, key: Key) -> Any:
        """The value that `event` starts, with all that is in it."""
        self._num_values += 1
        self._check(event, depth=len(key))
        children = takewhile(lambda child: not isinstance(child, yaml.CollectionEndEvent), self._events)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(children, key)
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._placed(child, child, (*key, index)) for index, child in enumerate(children)]
        return event.value if event.style else plain_scalar(event.value)

    def _mapping(self, names: Iterator[Any], section: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, Any] = {}
        for event in names:
            self._check(event, depth=len(section))
            if not isinstance(event, yaml.ScalarEvent):
                self._fail_at(event, "a key must be text", "quote text that starts with { or [")
            name: str = event.value
            key = (*section, name)
            if not event.style and not isinstance(plain_scalar(name), str):
                self._add(event, f"the key {dotted(key)} is not text", f"write '{brief(name)}', in quotes")
            if name in first:
                where = "" if self._inline else f", first on line {self._place(first[name])}"
                self._add(event, f"{dotted(key)} is set twice{where}", "keep one of the two")
            first.setdefault(name, event)
            values[name] = self._placed(event, next(self._events), key)
        return values

    def _placed(self, start: Any, event: Any, key: Key) -> Any:
        self._document.places[key] = self._place(start)
        return self._value(event, key)

    def _check(self, event: Any, depth: int) -> None:
        if self._num_values > MAX_VALUES:
            self._fail_at(event, f"more than {MAX_VALUES:,} values")
        if depth >= MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            self._fail_at(event, f"nested more than {MAX_DEPTH} levels deep")
        if event.anchor or getattr(event, "tag", None):
            hint = "write the value out, or quote text that starts with &, * or !"
            self._fail_at(event, "anchors, aliases and tags are not supported", hint)

    def _add(self, event: Any, what: str, advice: str) -> None:
        self._document.problems.append(Problem(self._place(event), what, advice))

    def _place(self, event: Any) -> Place:
        return self._document.name if self._inline else int(event.start_mark.line + 1)

    def _fail_at(self, event: Any, what: str, hint: str = "") -> NoReturn:
        self._fail(what, event.start_mark.line, event.start_mark.column, hint)

    def _fail(self, what: str, line: int, column: int, hint: str = "") -> NoReturn:
        """Raise for text that cannot be read any further; `line` and `column` count from 0."""
        lines = _LINE_BREAK.split(self._text)
        if not any(text.strip() for text in lines[line:]):  # at the end of the text: show the last line that is there
            line = max((index for index, text in enumerate(lines) if text.strip()), default=0)
            column = len(lines[line].rstrip())
        left = max(0, column - 60)
        shown = brief(lines[line][left:].replace("\t", "→"), limit=100)
        where = self._document.name if self._inline else f"{self._document.name}:{line + 1}:{column + 1}"
        raise ConfigError(f"{where}: {what}", hint=hint, details=[f"{shown}\n{' ' * (column - left)}^"])
