"""Reads YAML text into plain values and remembers the line of every key.

Only what a configuration needs: mappings, lists and scalars. Tags, anchors and aliases are problems, so that the text
can make nothing but `dict`, `list`, `str`, `int`, `float`, `bool` and `None`, no larger than itself.

Plain scalars follow the core schema of YAML 1.2, less its octal and hexadecimal numbers: `1e-4` is a number, while
`no`, `on`, `1:30`, `2024-01-31` and `007` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml
from yaml.reader import Reader

from dbbd_cli.config.problems import Document, Key, Problem, brief, dotted
from dbbd_cli.core.errors import ConfigError

MAX_DEPTH = 50
MAX_VALUES = 10_000

# Only its events are used, so its constructors never run.
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
# The parser compares each %TAG with all before it: a megabyte of them takes seconds.
_TAG_DIRECTIVE = re.compile("(?<![^\r\n\x85\u2028\u2029])%TAG")
_CORE_TAG = "tag:yaml.org,2002:"

_SYNTAX_HINTS = {
    "found character that cannot start any token": "indent with spaces, not tabs; quote text that starts with @ or `",
    "mapping values are not allowed in this context": (
        "is a ':' missing in the line before, or the indentation off? quote text that has ': ' in it"
    ),
    "could not find expected ':'": "each line reads 'key: value'",
    "did not find expected key": "do the keys of one section start in the same column?",
    "did not find expected alphabetic or numeric character": "quote text that starts with * or &",
}


def read_yaml(text: str, name: str, *, inline: bool = False) -> Document:
    """Reads one YAML document, from a file or, `inline`, from the command line, where lines have no number.

    Raises:
        ConfigError: the text is not YAML, is nested too deeply, or holds too many values or more than one document.
    """
    return _Reading(text, name, inline).document()


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


class _Reading:
    """Goes through the parser's events once, so that nothing is built before its limits are checked."""

    def __init__(self, text: str, name: str, inline: bool) -> None:
        self._text = text
        self._inline = inline
        self._document = Document(name, None)
        self._num_values = 0
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)

    def document(self) -> Document:
        for pattern, what in (
            (Reader.NON_PRINTABLE, "not valid YAML: a control character or half a surrogate pair"),
            (_TAG_DIRECTIVE, "%TAG is not supported"),
        ):
            if found := pattern.search(self._text):
                before = _LINE_BREAK.split(self._text[: found.start()])
                self._stop(what, len(before) - 1, len(before[-1]))
        try:
            next(self._events)  # the stream starts
            if isinstance(next(self._events), yaml.DocumentStartEvent):
                self._document.values = self._value(next(self._events), (), depth=0)
                next(self._events)  # the document ends
                if not isinstance(event := next(self._events), yaml.StreamEndEvent):
                    self._stop("a second document starts here", event.start_mark.line, 0)
        except yaml.MarkedYAMLError as error:
            mark, start = error.problem_mark or error.context_mark, error.context_mark
            assert mark is not None, "the parser marks its errors"
            what = f"not valid YAML: {error.problem or error.context}"
            if error.context and start and start.line != mark.line:
                what += f" ({error.context} from line {start.line + 1})"
            self._stop(what, mark.line, mark.column, hint=_SYNTAX_HINTS.get(error.problem or "", ""))
        return self._document

    def _value(self, event: Any, key: Key, depth: int) -> Any:
        start = event.start_mark
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            self._stop(f"more than {MAX_VALUES:,} values", start.line, start.column)
        if depth >= MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            self._stop(f"nested more than {MAX_DEPTH} levels deep", start.line, start.column)
        if isinstance(event, yaml.AliasEvent):
            self._refuse(key, event, f"the alias *{event.anchor}", "write the value out")
            return None
        if event.anchor:
            self._refuse(key, event, f"the anchor &{event.anchor}", "remove it")
        if event.tag:
            tag = "!!" + event.tag[len(_CORE_TAG) :] if event.tag.startswith(_CORE_TAG) else event.tag
            self._refuse(key, event, f"the tag {tag}", "remove it")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(key, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(key, depth)
        return event.value if event.style else plain_scalar(event.value)

    def _mapping(self, section: Key, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                known = len(self._document.problems)
                self._value(event, (*section, "?"), depth + 1)
                del self._document.problems[known:]  # what is wrong inside such a key does not matter
                self._add(event, f"a key{_inside(section)} is not text", "quote text that starts with {, [ or *")
                self._value(next(self._events), (*section, "?"), depth + 1)
                continue
            name: str = event.value
            key = (*section, name)
            if event.anchor or event.tag:
                self._refuse(key, event, "an anchor or a tag before it", "remove it")
            elif not event.style and not isinstance(plain_scalar(name), str):
                self._document.spoiled.add(key)
                self._add(event, f"the key {brief(name)}{_inside(section)} is not text", f"write '{name}'")
            if name in first:
                where = "" if self._inline else f", first on line {first[name].start_mark.line + 1}"
                self._add(event, f"{dotted(key)} is set twice{where}", "keep one of the two")
            first.setdefault(name, event)
            self._document.places[key] = self._place(event)
            values[name] = self._value(next(self._events), key, depth + 1)
        return values

    def _list(self, section: Key, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            key = (*section, len(values))
            self._document.places[key] = self._place(event)
            values.append(self._value(event, key, depth + 1))
        return values

    def _place(self, event: Any) -> int | str:
        return self._document.name if self._inline else event.start_mark.line + 1

    def _refuse(self, key: Key, event: Any, thing: str, advice: str) -> None:
        self._document.spoiled.add(key)
        owner = dotted(key) or ("the value" if self._inline else "the top level")
        self._add(event, f"{owner} has {brief(thing)}, which is not supported", advice)

    def _add(self, event: Any, what: str, advice: str) -> None:
        self._document.problems.append(Problem(self._place(event), what, advice))

    def _stop(self, what: str, line: int, column: int, hint: str = "") -> NoReturn:
        """Raises for text that cannot be read any further; `line` and `column` count from 0."""
        lines = _LINE_BREAK.split(self._text)
        if not any(text.strip() for text in lines[line:]):  # at the end of the text: show what came last
            line = max((index for index, text in enumerate(lines) if text.strip()), default=0)
            column = len(lines[line].rstrip())
        left = max(0, column - 60)
        shown = brief(lines[line][left:].replace("\t", "→"), limit=100)
        where = self._document.name if self._inline else f"{self._document.name}:{line + 1}:{column + 1}"
        raise ConfigError(f"{where}: {what}", hint=hint, details=[f"{shown}\n{' ' * (column - left)}^"])


def _inside(section: Key) -> str:
    return f" in {dotted(section)}" if section else ""
